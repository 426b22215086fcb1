"""What all tests share; `models` holds tiny random backbones."""

import torch

# The models in tests are so small that handing work to other threads costs more than the work.
torch.set_num_threads(1)
