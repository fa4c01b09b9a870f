"""Where a face lies in a photo. Knows no Ray and no torch.

detect    faces in pixels, with YuNet
align     … brought to one place in a square picture
find      both, with the detector's file
"""
