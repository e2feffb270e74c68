"""The cuda device: weights in pages of device memory, inference by replaying CUDA graphs."""
