"""Image files of any kind → pixels, and pixels → image files.

names           which files are photos
cost            what decoding one takes, from its header
budget          … of what all threads may take
repair          damaged files
decode          pixels: the way through the rest
orientation     how the camera was held
depth, colour   more than 8 bits; ICC profiles
encode          pixels → files
contact_sheet   images side by side
"""
