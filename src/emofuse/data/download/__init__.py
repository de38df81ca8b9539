"""Clips and pretrained weights onto this machine: one module per stage, and what they share."""
