"""Pretrained weights: parameters of VGG and trained networks, from files and from the web."""
