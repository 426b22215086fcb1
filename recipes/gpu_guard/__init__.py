"""A guard for any local model, on a GPU or a processor: train, calibrate, score, serve and time it in one command."""
