# husk: the guest benchmark kit: a Python program: dictionaries, strings, classes, floats
import sys

scale = int(sys.argv[1])


class Account:
    def __init__(self, name):
        self.name = name
        self.total = 0

    def add(self, amount):
        self.total += amount
        return self


def words():
    counts = {}
    for i in range(600 * scale):
        word = "w%d" % (i * 7919 % 1009)
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]


def accounts():
    held = [Account(str(i)) for i in range(50)]
    for i in range(600 * scale):
        held[i % 50].add(i).add(1)
    return sum(account.total for account in held)


def spectral():
    n = 24
    u = [1.0] * n
    for _ in range(scale // 4 + 1):
        u = [sum(u[j] / ((i + j) * (i + j + 1) // 2 + i + 1) for j in range(n)) for i in range(n)]
        top = max(u)
        u = [value / top for value in u]
    return "%.9f" % sum(u)


def sieve():
    flags = bytearray(b"\1") * (2000 * scale)
    for i in range(2, int(len(flags) ** 0.5) + 1):
        if flags[i]:
            flags[i * i::i] = bytes(len(range(i * i, len(flags), i)))
    return sum(flags)


def text():
    parts = [str(i * i) for i in range(300 * scale)]
    joined = ",".join(parts)
    return len(joined.replace("1", "one").split(",")) + joined.count("99")


def generator(limit):
    a, b = 0, 1
    for _ in range(limit):
        yield a
        a, b = b, (a + b) % 1000003


print(words(), accounts(), spectral(), sieve(), text(), sum(generator(500 * scale)))
