"""The trained models in use: prediction for arbitrary videos, export, and serving by MLflow.

`bundle` finds models and describes how their inputs are made, `windows` cuts a video into windows that resemble clips of the
corpus, `predictor` runs the networks, `writers` and `page` present the predictions, `export` and `model_card` write a
self-contained folder, and `mlflow_model` serves it.
"""
