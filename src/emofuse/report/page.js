"use strict";

// Clicking a column's header sorts the table: ascending, descending, original order. Missing values stay last.
const collator = new Intl.Collator("en", { numeric: true });
const MISSING = ["", "–", "not run"];
const TIME = /^(?:(\d+) h)? ?(?:(\d+) min)? ?(?:(\d+) s)?$/;

function text(cell) {
  const shown = [...cell.childNodes].filter((node) => node.nodeName !== "SMALL");
  return shown.map((node) => node.textContent).join("").trim();
}

function number(shown) {
  const plain = shown.replace("−", "-").replaceAll(",", "");
  const time = TIME.exec(plain);
  if (time) return 3600 * (time[1] ?? 0) + 60 * (time[2] ?? 0) + 1 * (time[3] ?? 0);
  const below = plain.startsWith("<") ? 1e-9 : 0; // "< 0.001" sorts before 0.001
  return Number.parseFloat(plain.replace(/^[<+] ?/, "")) - below;
}

function value(cell) {
  const shown = text(cell);
  if (MISSING.includes(shown)) return null;
  if (!cell.classList.contains("number")) return shown;
  return Number.isNaN(number(shown)) ? null : number(shown);
}

function compare(one, other) {
  return typeof one === "number" ? one - other : collator.compare(one, other);
}

function sort(body, rows, column, order) {
  const keyed = rows.map((row) => [value(row.cells[column]), row]);
  const sign = order === "descending" ? -1 : 1;
  if (order) {
    keyed.sort(([one], [other]) => (one === null) - (other === null) || (one === null ? 0 : sign * compare(one, other)));
  }
  body.append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("figure.table table")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  for (const [column, header] of headers.entries()) {
    if (!header.textContent) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const order = header.ariaSort === null ? "ascending" : header.ariaSort === "ascending" ? "descending" : null;
      for (const other of headers) other.removeAttribute("aria-sort");
      if (order) header.ariaSort = order;
      sort(body, rows, column, order);
    });
  }
}

// Clicking a figure enlarges it. The drawing itself moves to the dialog and back, so that its ids stay unique.
const dialog = document.createElement("dialog");
dialog.innerHTML = '<div class="bar"><span></span><button type="button">Close</button></div><div class="stage"></div>';
document.body.append(dialog);
const [title, close, stage] = dialog.querySelectorAll("span, button, .stage");
let home = null;

function enlarge(canvas) {
  home = canvas;
  const drawing = canvas.firstElementChild;
  dialog.style.setProperty("--least", `${drawing.getBoundingClientRect().width}px`);
  canvas.style.height = `${canvas.offsetHeight}px`;
  title.textContent = canvas.nextElementSibling.textContent;
  stage.append(drawing);
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  home.append(...stage.childNodes);
  home.style.height = "";
  home.focus();
});
close.addEventListener("click", () => dialog.close());
stage.addEventListener("click", () => dialog.close());

for (const canvas of document.querySelectorAll(".drawing .canvas")) {
  const figure = canvas.parentElement;
  canvas.tabIndex = 0;
  canvas.role = "button";
  canvas.ariaLabel = `Enlarge: ${figure.ariaLabel}`;
  figure.removeAttribute("role"); // the role of an image would hide the button from assistive technology
  figure.removeAttribute("aria-label");
  canvas.addEventListener("click", () => enlarge(canvas));
  canvas.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(canvas);
  });
}

// Open the details that contain the target of a link and, in browsers that do not, all details for printing.
function reveal(target) {
  for (let details = target?.closest("details"); details; details = details.parentElement.closest("details")) details.open = true;
  target?.scrollIntoView();
}
addEventListener("hashchange", () => reveal(document.querySelector(":target")));
reveal(document.querySelector(":target"));

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of closed) details.open = false;
});
