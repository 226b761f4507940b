"""Peak FLOP/s of GPUs, the denominator of MFU."""

from __future__ import annotations

BF16_DENSE_FLOPS: dict[str, float] = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100 PCIe": 7.56e14,
    "H100 NVL": 8.35e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "A10G": 7.0e13,
    "A10": 1.25e14,
    "L4": 1.21e14,
    "RTX 4090": 1.652e14,
    "RTX 3090": 7.1e13,
}
"""Dense bf16 operations a second with fp32 sums, by a part of the device's name, the longer first where one holds the
other.

NVIDIA's data sheets of the devices (H100, H200, B200, A100, L40S, L4, A10), Amazon's of the A10G, and NVIDIA's white
papers of the Ada and Ampere GA102 architectures; figures with sparsity are halved.
"""


def peak_flops(device: str) -> float | None:
    """Return the dense bf16 peak of a GPU by its driver's name, in operations per second; None for an unlisted one.

    Example:
        >>> peak_flops("NVIDIA H100 80GB HBM3")
        989000000000000.0
    """
    words = device.replace("-", " ").split()
    for name in sorted(BF16_DENSE_FLOPS, key=len, reverse=True):
        if all(part in words for part in name.split()):
            return BF16_DENSE_FLOPS[name]
    return None
