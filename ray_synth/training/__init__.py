"""How a model is trained: what generators and classifiers share."""
