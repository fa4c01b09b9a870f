"""Secs. 3 and 4 of the paper. Needs torch and nothing else.

options     all settings of the method
losses      Eqs. 1 to 7
features    f as the method uses it, with scaled features
dtn         G = g∘f, D and one training step (Sec. 4)
augment     random changes to images
precision   bfloat16 where it is fast
pixels      stored pixels ↔ tensors in [-1, 1]
kid         the distance of G(s) from t
"""
