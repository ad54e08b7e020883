"""How good is a backbone for finding objects: Faster and Mask R-CNN on its fourth stage (C4), VOC's AP.

Here: the paper's detection experiments, by torchvision's detectors and as configs for detectron2.
Not here: classification (the rooms beside), turning weights into detectron2's names (`barlow export`).
"""
