"""How good a model is, in COCO's own figures."""
