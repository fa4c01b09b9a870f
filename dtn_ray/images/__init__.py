"""Image files of any kind → pixels, and pixels → image files.

names           which files are photos
cost            computes from the header the memory and time that decoding takes
budget          limits the memory of all threads together
repair          repairs damaged files
decode          from a file to pixels, through all of these
orientation     reads the orientation from EXIF and XMP
depth, colour   convert more than 8 bits, and ICC profiles
encode          pixels → files
contact_sheet   images side by side
"""
