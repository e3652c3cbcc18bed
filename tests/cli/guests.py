# husk: guests of a few bytes for tests of the command line: 16-bit code in a ROM that starts at the reset vector
"""Each returns the bytes of a 64 KiB ROM image."""

COM1 = b"\xba\xf8\x03"  # mov dx, 0x3f8


def say(text):
    """mov al, letter; out dx, al: for every letter."""
    return COM1 + b"".join(bytes([0xB0, letter, 0xEE]) for letter in text)


def outb(port, value):
    return b"\xba" + port.to_bytes(2, "little") + bytes([0xB0, value, 0xEE])


def outw(port, value):
    return b"\xba" + port.to_bytes(2, "little") + b"\xb8" + value.to_bytes(2, "little") + b"\xef"


def outl(port, value):
    return b"\xba" + port.to_bytes(2, "little") + b"\x66\xb8" + value.to_bytes(4, "little") + b"\x66\xef"


STOP = b"\xeb\xfe"  # jmp $
EXIT = b"\xb0\x10\xe6\xf4" + STOP  # mov al, 0x10; out 0xf4, al: status 33 where isa-debug-exit is at 0xf4
RESET = outb(0xCF9, 6) + STOP
TRIPLE_FAULT = b"\x0f\x01\x1e\x00\x00\xcc"  # lidt of zeros; int3
HALT = b"\xfa\xf4" + STOP  # cli; hlt
ECHO = (b"\xba\xfd\x03\xec\xa8\x01\x74\xfb"  # wait for data in COM1's line status
        b"\xba\xf8\x03\xec\xee\xeb\xf1")     # read it, write it, again
S5 = 7
# The LPC bridge's PMBASE (ICH9 data sheet, 13.1.13) to 0x600, ACPI enabled, and the sleep type of S5 with SLP_EN.
POWER_OFF = (outl(0xCF8, 0x8000F840) + outl(0xCFC, 0x601) + outl(0xCF8, 0x8000F844) + outb(0xCFC, 0x80) +
             outw(0x604, 0x2000 | S5 << 10) + STOP)


def show_port(port):
    """in al, dx from `port`, to COM1."""
    return b"\xba" + port.to_bytes(2, "little") + b"\xec" + COM1 + b"\xee"


def show_clock(registers):
    """CMOS registers to COM1, as they are."""
    return b"".join(bytes([0xB0, register, 0xE6, 0x70, 0xE4, 0x71]) + COM1 + b"\xee" for register in registers)


def rom(code):
    image = bytearray(b"\x90" * 0x10000)
    image[0x8000:0x8000 + len(code)] = code
    jump = (0x8000 - 0xFFF3) & 0xFFFF
    image[0xFFF0:0xFFF3] = bytes([0xE9, jump & 255, jump >> 8])
    return bytes(image)
