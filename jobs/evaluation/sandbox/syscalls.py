"""System calls that a confined program may make, by machine. Everything else is refused: sockets, processes, signals to
others, ptrace.

`fallocate` is refused too: it takes space faster than it can be counted, and the C library writes in its place.

Numbers are those of the kernel headers (asm/unistd_64.h, asm-generic/unistd.h).
"""

from __future__ import annotations

ALLOWED: dict[str, frozenset[int]] = {
    "x86_64": frozenset(
        [
            # files by path, which Landlock restricts
            *(2, 257, 85, 4, 6, 262, 332, 21, 269, 439, 80, 79, 82),
            *(264, 316, 83, 258, 84, 87, 263, 89, 267, 88, 266, 137, 95),
            # open files
            *(0, 1, 19, 20, 17, 18, 295, 296, 3, 8, 5, 138, 81, 32, 33, 292, 22, 293, 73, 74, 75, 77, 78, 217, 326, 40),
            # memory
            *(9, 10, 11, 25, 28, 12, 26, 27, 324),
            # signals of the process itself
            *(13, 14, 15, 127, 130, 128, 131, 219, 34),
            # time
            *(35, 230, 228, 229, 96, 201, 100, 37, 38, 36),
            # questions
            *(39, 110, 186, 102, 107, 104, 108, 115, 118, 120, 111, 121, 124, 97, 98, 99, 63, 318, 309),
            # threads and the end
            *(60, 231, 158, 202, 218, 273, 334, 24, 204),
            # waiting
            *(23, 270, 7, 271, 213, 291, 233, 232, 281, 284, 290),
        ]
    ),
    "aarch64": frozenset(
        [
            # files by path, which Landlock restricts
            *(56, 79, 291, 48, 439, 49, 17, 38, 276, 34, 35, 78, 36, 43, 166),
            # open files
            *(63, 64, 65, 66, 67, 68, 69, 70, 57, 62, 80, 44, 50, 23, 24, 59, 32, 82, 83, 46, 61, 285, 71),
            # memory
            *(222, 226, 215, 216, 233, 214, 227, 232, 283),
            # signals of the process itself
            *(134, 135, 139, 136, 133, 137, 132, 128),
            # time
            *(101, 115, 113, 114, 169, 153, 103, 102),
            # questions
            *(172, 173, 178, 174, 175, 176, 177, 158, 148, 150, 155, 156, 163, 165, 179, 160, 278, 168),
            # threads and the end
            *(93, 94, 98, 96, 99, 293, 124, 123),
            # waiting
            *(72, 73, 20, 21, 22, 19),
        ]
    ),
}
"""Numbers of the calls that are allowed whatever their arguments."""

CHECKED: dict[str, dict[str, int]] = {
    "x86_64": {"clone": 56, "clone3": 435, "prlimit64": 302, "ioctl": 16, "fcntl": 72},
    "aarch64": {"clone": 220, "clone3": 435, "prlimit64": 261, "ioctl": 29, "fcntl": 25},
}
"""Numbers of the calls that are allowed with some arguments."""

AUDIT: dict[str, int] = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""The kernel's number of the machine, AUDIT_ARCH of linux/audit.h."""
