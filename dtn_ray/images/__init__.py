"""Image files of any kind → pixels, and pixels → image files.

names           which files are photos
cost            the memory and time that decoding takes, from the header
budget          the memory that all threads share
repair          damaged files
decode          from a file to pixels, through all of these
orientation     upright, by EXIF and XMP
depth, colour   more than 8 bits; ICC profiles
encode          pixels → files
contact_sheet   images side by side
"""
