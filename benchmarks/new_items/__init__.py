"""Items that a model was not trained on: hidden from the training, then added by their texts."""
