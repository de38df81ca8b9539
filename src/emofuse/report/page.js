"use strict";

// Tables sort by a press on a column's header: ascending, descending, and as they were. What is absent stays last.
const words = new Intl.Collator("en", { numeric: true });
const ABSENT = ["", "–", "not run"];
const TIME = /^(?:(\d+) h)? ?(?:(\d+) min)? ?(?:(\d+) s)?$/;

function text(cell) {
  const shown = [...cell.childNodes].filter((node) => node.nodeName !== "SMALL");
  return shown.map((node) => node.textContent).join("").trim();
}

function number(shown) {
  const plain = shown.replace("−", "-").replaceAll(",", "");
  const time = TIME.exec(plain);
  if (time) return 3600 * (time[1] ?? 0) + 60 * (time[2] ?? 0) + 1 * (time[3] ?? 0);
  const below = plain.startsWith("<") ? 1e-9 : 0; // "< 0.001" comes before 0.001
  return Number.parseFloat(plain.replace(/^[<+] ?/, "")) - below;
}

function value(cell) {
  const shown = text(cell);
  if (ABSENT.includes(shown)) return null;
  if (!cell.classList.contains("number")) return shown;
  return Number.isNaN(number(shown)) ? null : number(shown);
}

function compare(one, other) {
  return typeof one === "number" ? one - other : words.compare(one, other);
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

// Figures fill the window. The drawing itself moves there and back, so that its ids stay the only ones.
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
  figure.removeAttribute("role"); // an image would hide the button in it
  figure.removeAttribute("aria-label");
  canvas.addEventListener("click", () => enlarge(canvas));
  canvas.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    enlarge(canvas);
  });
}

// What a link leads to is shown, and all of it is printed, by browsers too that leave it folded.
function unfold(target) {
  for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  target?.scrollIntoView();
}
addEventListener("hashchange", () => unfold(document.querySelector(":target")));
unfold(document.querySelector(":target"));

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
});
