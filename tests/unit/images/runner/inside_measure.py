"""Run by an environment's Python: what torch's tensors weigh. Prints the name of each check that held."""

import sys

import torch
from runner.device import Cpu
from runner.measure import device_bytes
from runner.protocol import Holding


def measured(roots, parts=None):
    holding = Holding(at="end", logical=1, held=1, analytic=None, full=None, roots=roots, parts=parts or {})
    return {part: size for part, size in device_bytes(holding, Cpu(), None, 1).items() if size}


def expect(name, found, expected):
    if found != expected:
        sys.exit(f"{name}: {found} instead of {expected}")
    print(name)


class Quantised(torch.Tensor):
    """A wrapper without storage of its own, as quantising libraries make them."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, (1000,), dtype=torch.float32)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError(function)


big = torch.zeros(100, 10)
expect("whole", [measured([big[:1]]), measured([big[:1].clone()])], [{"state": 4000}, {"state": 40}])
expect("shared", measured([big, [big.T, {"view": big.view(-1)}], big.numpy()], {"dense": [big[0]]}), {"dense": 4000})
expect("nothing", measured([torch.zeros(9, device="meta"), torch.zeros(0), torch.nn.Linear(9, 9), big.size(), big.dtype]), {})
codes, scales = torch.zeros(64, dtype=torch.uint8), torch.zeros(4, dtype=torch.float16)
expect(
    "parts",
    measured([{0: (codes, scales, torch.zeros(1))}], {"codes": [codes], "scales": [scales]}),
    {"codes": 64, "scales": 8, "state": 4},
)
expect("sparse", measured([torch.eye(4).to_sparse()]), {"state": 2 * 4 * 8 + 4 * 4})
wrapped = Quantised(torch.zeros(500, dtype=torch.uint8), torch.zeros(4))
expect("wrapped", measured([wrapped], {"scales": [wrapped.scale]}), {"scales": 16, "state": 500})
expect("parameters", measured([torch.nn.Parameter(torch.zeros(5))]), {"state": 20})

device = Cpu()
for _ in range(2):  # the second time must not find the first one's pages still there
    device.watch()
    torch.ones(32 * 2**20 // 4)
    peak = device.peak()
    if peak is not None and not 28 * 2**20 < peak < 48 * 2**20:
        sys.exit(f"peak: {peak}")
print("peak")
