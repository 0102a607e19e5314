"""Cross-validation, final models, enhancement and evaluation of models on prepared pairs."""
