"""A small judge and made exchanges, to try the calibration of judges."""
