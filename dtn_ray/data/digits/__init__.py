"""The datasets of the digit experiments; `load` is the one door to them."""
