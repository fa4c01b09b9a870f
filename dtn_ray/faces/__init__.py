"""Faces in photos. Does not import Ray or torch.

detect    finds faces in pixels, with YuNet
align     moves them to the same place in a square picture
find      both, and the detector's file
"""
