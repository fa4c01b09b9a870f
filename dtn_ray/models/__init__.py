"""The networks f, g and D. Pure torch: no I/O, no Ray."""
