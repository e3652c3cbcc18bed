#!/usr/bin/env python3
# husk: turns the instruction table (src/cpu/table/*.tab, format in src/cpu/README.md) into C++ tables
"""Strict: anything that the format does not know, and any two forms that claim the same bytes, is an error."""
import argparse
import pathlib
import re
import sys

CONDITIONS = ["O", "NO", "B", "NB", "Z", "NZ", "BE", "NBE", "S", "NS", "P", "NP", "L", "NL", "LE", "NLE"]
# Flags that each pair of conditions looks at (SDM vol. 1, appendix B).
CONDITION_FLAGS = ["o", "c", "z", "cz", "s", "p", "so", "zso"]
FLAG_BITS = {"c": 0x1, "p": 0x4, "a": 0x10, "z": 0x40, "s": 0x80, "t": 0x100, "i": 0x200, "d": 0x400, "o": 0x800}
ATTRIBUTES = {
    "lock": "kAttrLock", "rep": "kAttrRep", "repcc": "kAttrRepCond", "no64": "kAttrNo64", "only64": "kAttrOnly64",
    "cpl0": "kAttrCpl0", "iopl": "kAttrIopl", "aligned": "kAttrAligned", "ends": "kAttrEndsBlock",
    "noreal": "kAttrNoReal", "fpu": "kAttrFpu", "fpuctl": "kAttrFpuControl", "mmx": "kAttrMmx", "sse": "kAttrSse",
    "avx": "kAttrAvx", "simdfp": "kAttrSimdFp", "undefres": "kAttrUndefResult", "system": "kAttrSystem",
    "ownfeature": "kAttrOwnFeature",
}
SIZE_ATTRIBUTES = {"d64", "f64", "nosize", "byte"}
OPERAND_KINDS = {
    "E": "gpr_rm", "G": "gpr_reg", "R": "gpr_rm_only", "M": "mem", "B": "gpr_vvvv", "Z": "gpr_opcode", "I": "imm",
    "J": "rel", "O": "moffs", "A": "far_ptr", "S": "sreg", "C": "creg", "D": "dreg", "V": "vec_reg", "W": "vec_rm",
    "U": "vec_rm_only", "H": "vec_vvvv", "L": "vec_is4", "P": "mmx_reg", "Q": "mmx_rm", "N": "mmx_rm_only",
    "X": "string_src", "Y": "string_dst",
}
OPERAND_SIZES = {"b", "w", "d", "q", "v", "z", "y", "x", "dq", "qq", "t", "p", "s", "a", "any", "fpu_env", "fpu_state",
                 "fxsave", "xsave"}
FIXED_OPERANDS = {  # kind, size, number
    "AL": ("fixed_gpr", "b", 0), "AX": ("fixed_gpr", "w", 0), "EAX": ("fixed_gpr", "d", 0),
    "RAX": ("fixed_gpr", "q", 0), "CL": ("fixed_gpr", "b", 1), "DX": ("fixed_gpr", "w", 2),
    "rAX": ("fixed_gpr", "v", 0), "eAX": ("fixed_gpr", "z", 0), "ST0": ("st0", "t", 0), "STi": ("sti", "t", 0), "ES": ("fixed_sreg", "w", 0),
    "CS": ("fixed_sreg", "w", 1), "SS": ("fixed_sreg", "w", 2), "DS": ("fixed_sreg", "w", 3),
    "FS": ("fixed_sreg", "w", 4), "GS": ("fixed_sreg", "w", 5), "XMM0": ("fixed_xmm0", "dq", 0),
    "1": ("const_one", "b", 1),
}
IMMEDIATES = {"ib", "ibs", "iw", "id", "iz", "iv", "iq", "cb", "cz", "moffs", "ptr", "is4"}
PREFIXES = {"NP": {0}, "66": {1}, "F3": {2}, "F2": {3}, "NFx": {0, 1}}
VEX_PP = {"NP": 0, "66": 1, "F3": 2, "F2": 3}
VEX_MAPS = {"0F": 4, "0F38": 5, "0F3A": 6}
VEX_L = {"128": {0}, "L0": {0}, "256": {1}, "L1": {1}, "LIG": {0, 1}, "ANY": {0, 1}}
VEX_W = {"W0": {0}, "W1": {1}, "WIG": {0, 1}}
# The decoder's questions, in the order in which they are asked; DecodeKey in src/cpu/coding.h has the same order.
DIMENSIONS = [("mod3", 2), ("reg", 8), ("pp", 4), ("l", 2), ("w", 2), ("osz", 3), ("asz", 3), ("rexb", 2), ("rm", 8)]
ALL = {name: frozenset(range(size)) for name, size in DIMENSIONS}


class TableError(Exception):
    """A mistake in a line of the table."""


class Form:
    """One line of the table, taken apart."""

    def __init__(self, where, fields, condition=None):
        self.where = where
        self.condition = condition
        self.mnemonic, self.encoding, operands, self.semantics, self.feature, flags, attributes = fields
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.mnemonic):
            raise TableError(f"mnemonic '{self.mnemonic}' is not upper-case letters and digits")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.semantics):
            raise TableError(f"semantics '{self.semantics}' is not a lower-case name")
        self.parse_attributes(attributes)
        self.parse_operands(operands)
        self.parse_flags(flags)
        self.parse_encoding()
        self.check_shape()
        self.size_class = self.find_size_class()

    def parse_attributes(self, text):
        words = [] if text == "-" else text.split()
        for word in words:
            if word not in ATTRIBUTES and word not in SIZE_ATTRIBUTES:
                raise TableError(f"unknown attribute '{word}'")
        if len(set(words)) != len(words):
            raise TableError("an attribute is given twice")
        self.attributes = set(words)
        if {"no64", "only64"} <= self.attributes:
            raise TableError("both no64 and only64")

    def parse_operands(self, text):
        self.operands = []
        for word in [] if text == "-" else text.split():
            name, _, access = word.partition(":")
            if access not in ("", "r", "w", "rw"):
                raise TableError(f"operand '{word}': access must be r, w or rw")
            if name in FIXED_OPERANDS:
                kind, size, number = FIXED_OPERANDS[name]
                letter = name
            else:
                letter, size, number = name[0], name[1:], 0
                if letter not in OPERAND_KINDS or size not in OPERAND_SIZES:
                    raise TableError(f"unknown operand '{name}'")
                kind = OPERAND_KINDS[letter]
            self.operands.append({"letter": letter, "kind": kind, "size": size, "fixed": number,
                                  "read": access in ("", "r", "rw"), "written": access in ("w", "rw")})
        if len(self.operands) > 5:
            raise TableError("more than five operands")

    def parse_flags(self, text):
        masks = {"r": 0, "w": 0, "u": 0, "0": 0, "1": 0}
        for word in [] if text == "-" else text.split():
            what, colon, letters = word.partition(":")
            if not colon or what not in masks:
                raise TableError(f"flags '{word}': expected r: w: u: 0: or 1:")
            if letters == "cc":
                if self.condition is None:
                    raise TableError("r:cc needs +cc in the encoding")
                letters = CONDITION_FLAGS[self.condition >> 1]
            for letter in letters:
                if letter not in FLAG_BITS:
                    raise TableError(f"flags '{word}': unknown flag '{letter}'")
                masks[what] |= FLAG_BITS[letter]
        if masks["0"] & masks["1"]:
            raise TableError("a flag is both cleared and set")
        masks["w"] |= masks["0"] | masks["1"]
        self.flags = masks

    def parse_encoding(self):
        tokens = self.encoding.split()
        self.cells = dict(ALL)
        self.vex = False
        self.modrm = False
        self.fixed_modrm = False
        self.digit = None
        self.mod_any = False
        self.vsib = False
        self.plus = None
        self.immediates = []
        self.mandatory = False
        if tokens and tokens[0] in PREFIXES:
            self.restrict("pp", PREFIXES[tokens[0]])
            self.mandatory = tokens[0] in ("66", "F3", "F2")
            tokens.pop(0)
        if tokens and tokens[0].startswith("VEX"):
            if self.mandatory:
                raise TableError("a mandatory prefix before VEX belongs inside it")
            self.parse_vex(tokens.pop(0))
        opcode = []
        while tokens and re.fullmatch(r"[0-9A-F]{2}(\+(r|i|cc))?", tokens[0]) and self.plus is None:
            byte, _, plus = tokens.pop(0).partition("+")
            opcode.append(int(byte, 16))
            self.plus = plus or None
        self.place_opcode(opcode)
        for token in tokens:
            self.parse_token(token)

    def parse_vex(self, token):
        parts = token.split(".")
        if len(parts) != 5 or parts[1] not in VEX_L or parts[2] not in VEX_PP or parts[3] not in VEX_MAPS or \
                parts[4] not in VEX_W:
            raise TableError(f"'{token}' is not VEX.(128|256|LIG|L0|L1|ANY).(NP|66|F3|F2).(0F|0F38|0F3A).(W0|W1|WIG)")
        self.vex = True
        self.map = VEX_MAPS[parts[3]]
        self.restrict("l", VEX_L[parts[1]])
        self.restrict("pp", {VEX_PP[parts[2]]})
        self.restrict("w", VEX_W[parts[4]])

    def place_opcode(self, opcode):
        if self.vex:
            if len(opcode) != 1:
                raise TableError("one opcode byte expected after VEX")
        else:
            self.map = 0
            if opcode[:1] == [0x0F]:
                self.map = 1
                opcode = opcode[1:]
                if opcode[:1] in ([0x38], [0x3A]):
                    self.map = 2 if opcode[0] == 0x38 else 3
                    opcode = opcode[1:]
            if len(opcode) != 1:
                raise TableError("the opcode must be one byte after 0F, 0F 38, 0F 3A or nothing")
        self.opcode = opcode[0]
        count = {None: 1, "r": 8, "i": 8, "cc": 16}[self.plus]
        if self.opcode % count:
            raise TableError(f"+{self.plus} on an opcode that is not a multiple of {count}")
        self.opcodes = range(self.opcode, self.opcode + count)
        if self.plus == "cc":
            self.opcodes = [self.opcode + self.condition]
            self.opcode += self.condition

    def parse_token(self, token):
        if token == "/r":
            self.modrm = True
        elif re.fullmatch(r"/[0-7]", token):
            self.modrm = True
            self.digit = int(token[1])
            self.restrict("reg", {self.digit})
        elif re.fullmatch(r"=[0-9A-F]{2}(\+i)?", token):
            value = int(token[1:3], 16)
            self.modrm = self.fixed_modrm = True
            if value < 0xC0:
                raise TableError(f"'{token}': only ModRM bytes with mod = 3 can be fixed")
            self.restrict("mod3", {1})
            self.restrict("reg", {value >> 3 & 7})
            if not token.endswith("+i"):
                self.restrict("rm", {value & 7})
            elif value & 7:
                raise TableError(f"'{token}': +i on a byte that is not a multiple of 8")
        elif token in ("mem", "reg"):
            self.restrict("mod3", {1 if token == "reg" else 0})
        elif token == "modany":
            self.mod_any = True
        elif token == "vsib":
            self.vsib = True
            self.restrict("mod3", {0})
        elif token in ("W0", "W1"):
            self.restrict("w", {int(token[1])})
        elif token == "rexb0":
            self.restrict("rexb", {0})
        elif token in ("a16", "a32", "a64"):
            self.restrict("asz", {{"a16": 0, "a32": 1, "a64": 2}[token]})
        elif token in ("o16", "o32", "o64"):
            self.restrict("osz", {{"o16": 0, "o32": 1, "o64": 2}[token]})
        elif token in IMMEDIATES:
            self.immediates.append(token)
        else:
            raise TableError(f"unknown encoding token '{token}'")

    def restrict(self, dimension, values):
        if self.cells[dimension] not in (ALL[dimension], frozenset(values)):
            raise TableError(f"two tokens restrict {dimension}")
        self.cells[dimension] = frozenset(values)

    def check_shape(self):
        """The operands must fit the encoding."""
        letters = [o["letter"] for o in self.operands]
        uses_rm = any(x in letters for x in "ERMWUQN")
        uses_reg = any(x in letters for x in "GSCDVP")
        if (uses_rm or uses_reg) and not self.modrm:
            raise TableError("an operand needs ModRM, the encoding has none")
        if uses_reg and self.digit is not None:
            raise TableError("an operand in ModRM.reg, which the opcode extends into")
        if sum(letters.count(x) for x in "ERMWUQN") > 1 or sum(letters.count(x) for x in "GSCDVP") > 1:
            raise TableError("two operands in the same ModRM field")
        if self.mod_any:
            pass
        elif any(x in letters for x in "RUN"):
            if self.cells["mod3"] == ALL["mod3"]:
                self.cells["mod3"] = frozenset({1})
            if self.cells["mod3"] != {1}:
                raise TableError("register-only operand in a memory form")
        elif "M" in letters:
            if self.cells["mod3"] == ALL["mod3"]:
                self.cells["mod3"] = frozenset({0})
            if self.cells["mod3"] != {0}:
                raise TableError("memory-only operand in a register form")
        if ("Z" in letters) != (self.plus == "r"):
            raise TableError("operand Z and +r go together")
        if any(x in letters for x in "BHL") and not self.vex:
            raise TableError("operands B, H and L need VEX")
        if ("L" in letters) != ("is4" in self.immediates):
            raise TableError("operand L and is4 go together")
        wanted = sum(letters.count(x) for x in "IJOA")
        given = len([i for i in self.immediates if i != "is4"])
        if wanted != given:
            raise TableError(f"{given} immediates in the encoding, {wanted} among the operands")
        if "lock" in self.attributes and not any(o["letter"] in "EM" and o["written"] for o in self.operands):
            raise TableError("lock without a memory destination")
        self.imm_kind()

    def imm_kind(self):
        kinds = {(): "none", ("ib",): "ib", ("ibs",): "ibs", ("iw",): "iw", ("id",): "id", ("iz",): "iz", ("iv",): "iv",
                 ("iq",): "iq", ("cb",): "ibs", ("cz",): "iz", ("moffs",): "moffs", ("ptr",): "ptr", ("is4",): "is4",
                 ("iw", "ib"): "iw_ib", ("ib", "ib"): "ib_ib"}
        key = tuple(self.immediates)
        if key not in kinds:
            raise TableError(f"immediates '{' '.join(key)}' do not go together")
        return kinds[key]

    def find_size_class(self):
        sized = [o for o in self.operands if o["letter"] not in "IJ1" and o["kind"] != "fixed_sreg"]
        sizes = {o["size"] for o in sized}
        if "byte" in self.attributes:
            base = "byte"
        elif "nosize" in self.attributes:
            base = "four"
        elif not sized:
            base = "four" if self.vex else "v"
        elif sized[0]["size"] == "b":
            base = "byte"
        elif sizes & {"v", "a", "p", "s", "fpu_env", "fpu_state"}:
            base = "v"
        elif "y" in sizes:
            base = "y"
        elif "z" in sizes:
            base = "z"
        else:
            base = "four"
        if base in ("v", "z") and self.vex:
            raise TableError("VEX has no 16-bit operand size: use y, d or q")
        if base == "v" and self.cells["pp"] == {1}:
            raise TableError("size v with mandatory 66: use y or nosize")
        for attribute in ("d64", "f64"):
            if attribute in self.attributes:
                if base not in ("v", "y") or (base, attribute) == ("y", "d64"):
                    raise TableError(f"{attribute} on a form whose operand size is not v or y")
                base += "_" + attribute
        return base

    def coding_flags(self):
        letters = {o["letter"]: o for o in self.operands}
        flags = []
        if self.modrm:
            flags.append("kCodingModrm")
        if any(x in letters for x in "GCDV"):
            flags.append("kCodingRegExtends")
        if any(x in letters for x in "ERWU"):
            flags.append("kCodingRmExtends")
        if any(x in letters and letters[x]["size"] == "b" for x in "GZ"):
            flags.append("kCodingRegByte")
        if any(x in letters and letters[x]["size"] == "b" for x in "ER"):
            flags.append("kCodingRmByte")
        if self.vsib:
            flags.append("kCodingVsib")
        if any(x in letters for x in "BH"):
            flags.append("kCodingVvvv")
        if self.vex:
            flags.append("kCodingVex")
        if self.mod_any:
            flags.append("kCodingModAny")
        if "lock" in self.attributes:
            flags.append("kCodingLock")
        if self.plus == "r":
            flags.append("kCodingOpcodeRegister")
        return flags

    def register_check(self):
        for operand in self.operands:
            if operand["kind"] == "creg":
                return "creg"
            if operand["kind"] == "dreg":
                return "dreg"
            if operand["kind"] == "sreg":
                return "sreg_not_cs" if operand["written"] else "sreg"
        if self.vsib:
            return "gather"
        return "none"

    def constant_imm2(self):
        if self.condition is not None:
            return self.condition
        for operand in self.operands:
            if operand["kind"] == "fixed_sreg":
                return operand["fixed"]
        return 0


def read_table(path, forms):
    errors = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path.name}:{number}"
        fields = [field.strip() for field in line.split("|")]
        try:
            if len(fields) != 7:
                raise TableError(f"{len(fields)} columns instead of 7")
            if "+cc" in fields[1]:
                if not fields[0].endswith("cc"):
                    raise TableError("+cc needs a mnemonic that ends in cc")
                for condition, name in enumerate(CONDITIONS):
                    forms.append(Form(where, [fields[0][:-2] + name] + fields[1:], condition))
            else:
                forms.append(Form(where, fields))
        except TableError as error:
            errors.append(f"{where}: {error}")
    return errors


def cells_in_mode(form, long_mode, slot):
    """What the form takes in this mode: widened where a restriction means nothing."""
    cells = dict(form.cells)
    others = [other for other in slot if other is not form]
    if not long_mode and cells["w"] == {0} and any(
            "only64" in other.attributes and other.cells["w"] == {1} and
            all(other.cells[d] & form.cells[d] for d, _ in DIMENSIONS if d != "w") for other in others):
        cells["w"] = ALL["w"]
    if long_mode and form.cells["osz"] != ALL["osz"]:
        if "d64" in form.attributes or "f64" in form.attributes:
            # The effective size is 8 unless 66 is there.
            cells["osz"] = frozenset({1, 2}) if form.cells["osz"] == {2} else form.cells["osz"] - {1, 2}
        elif form.cells["osz"] == {1} and not any(other.cells["osz"] == {2} for other in others):
            cells["osz"] = frozenset({1, 2})
    if form.mod_any:
        cells["mod3"] = ALL["mod3"]
    return cells


def subset(a, b):
    return all(a[d] <= b[d] for d, _ in DIMENSIONS)


def choose(candidates):
    """The most special of the forms that all take this cell."""
    for index, cells in candidates:
        if all(other == index or (subset(cells, other_cells) and cells != other_cells)
               for other, other_cells in candidates):
            return index
    raise TableError("overlap: " + ", ".join(str(index) for index, _ in candidates))


class TreeBuilder:
    """Decision trees over the questions; equal trees are shared."""

    def __init__(self):
        self.words = [0]
        self.known = {}

    def build(self, candidates, region, has_modrm):
        if not candidates:
            return 0
        for dimension, (name, size) in enumerate(DIMENSIONS):
            if len(region[name]) == 1 or all(region[name] <= cells[name] for _, cells in candidates):
                continue
            children = []
            for value in range(size):
                inside = [(i, c) for i, c in candidates if value in c[name]]
                children.append(self.build(inside, {**region, name: frozenset({value})}, has_modrm))
            if len(set(children)) == 1:
                return children[0]
            key = (dimension, has_modrm, tuple(children))
            if key not in self.known:
                self.known[key] = len(self.words)
                self.words += [dimension | (0x100 if has_modrm else 0)] + children
            offset = self.known[key]
            if offset >= 0x8000:
                raise TableError("the decision trees are too large")
            return 0x8000 | offset
        return choose(candidates) + 1


def build_trees(forms):
    builder = TreeBuilder()
    roots = []
    errors = []
    for long_mode in (False, True):
        slots = {}
        for index, form in enumerate(forms):
            if ("no64" if long_mode else "only64") in form.attributes:
                continue
            for opcode in form.opcodes:
                slots.setdefault((form.map, opcode), []).append(index)
        whole = {}
        for form in forms:
            for opcode in form.opcodes:
                whole.setdefault((form.map, opcode), []).append(form)
        mode_roots = {}
        for slot, indices in slots.items():
            modrm = {forms[i].modrm for i in indices}
            places = ", ".join(f"{forms[i].where} {forms[i].mnemonic} '{forms[i].encoding}'" for i in indices)
            if len(modrm) != 1:
                errors.append(f"some forms of one opcode have ModRM, others not: {places}")
                continue
            candidates = [(i, cells_in_mode(forms[i], long_mode, whole[slot])) for i in indices]
            try:
                mode_roots[slot] = builder.build(candidates, dict(ALL), modrm == {True})
            except TableError as error:
                clash = error.args[0]
                if clash.startswith("overlap: "):
                    numbers = [int(n) for n in clash[9:].split(", ")]
                    clash = "these forms claim the same bytes: " + ", ".join(
                        f"{forms[i].where} {forms[i].mnemonic} '{forms[i].encoding}'" for i in numbers)
                errors.append(clash)
        roots.append(mode_roots)
    return builder.words, roots, errors


def mask(values):
    return sum(1 << value for value in values)


def write_forms(path, forms):
    lines = ["// Generated by tools/insn_table.py from src/cpu/table/*.tab."]
    for form in forms:
        operands = []
        for o in form.operands:
            operands.append(f"{{OperandKind::{o['kind']}, OperandSize::{o['size']}, {str(o['read']).lower()}, "
                            f"{str(o['written']).lower()}, {o['fixed']}}}")
        attributes = " | ".join(ATTRIBUTES[a] for a in sorted(form.attributes) if a in ATTRIBUTES) or "0"
        f = form.flags
        feature = "none" if form.feature == "-" else form.feature
        lines.append(f'{{"{form.mnemonic}", "{form.encoding}", {{{", ".join(operands)}}}, Sem::{form.semantics}, '
                     f'Feature::{feature}, {f["r"]:#x}, {f["w"]:#x}, {f["u"]:#x}, {f["0"]:#x}, {f["1"]:#x}, {attributes}}},')
    write(path, lines)


def write_decoder(path, forms, words, roots):
    lines = ["// Generated by tools/insn_table.py from src/cpu/table/*.tab.", "#ifdef HUSK_DECODE_FORMS"]
    for form in forms:
        flags = " | ".join(form.coding_flags()) or "0"
        lines.append(f"{{SizeClass::{form.size_class}, ImmKind::{form.imm_kind()}, RegisterCheck::{form.register_check()}, "
                     f"{form.constant_imm2()}, {flags}}},")
    lines += ["#endif", "#ifdef HUSK_FORM_PATTERNS"]
    for form in forms:
        cells = {name: mask(form.cells[name]) for name, _ in DIMENSIONS}
        lines.append(f"{{{form.map}, {form.opcode:#04x}, {'true' if form.fixed_modrm else 'false'}, " +
                     ", ".join(f"{cells[name]:#x}" for name, _ in DIMENSIONS) + "},")
    lines += ["#endif", "#ifdef HUSK_DECODE_TREE"]
    for start in range(0, len(words), 24):
        lines.append(" ".join(f"{word}," for word in words[start:start + 24]))
    lines += ["#endif", "#ifdef HUSK_DECODE_ROOTS"]
    for mode_roots in roots:
        lines.append("{{")
        for opcode_map in range(7):
            values = [mode_roots.get((opcode_map, opcode), 0) for opcode in range(256)]
            lines.append("{{" + ",".join(str(value) for value in values) + "}},")
        lines.append("}},")
    lines.append("#endif")
    write(path, lines)


def write(path, lines):
    """Leaves an unchanged file alone, so that nothing is compiled again for it."""
    text = "\n".join(lines) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the generated files")
    parser.add_argument("--features", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent / "src/cpu/features.def")
    parser.add_argument("tables", type=pathlib.Path, nargs="+")
    args = parser.parse_args()
    features = set(re.findall(r"F\((\w+),", re.sub(r"//.*", "", args.features.read_text()))) | {"-"}
    forms = []
    errors = []
    for path in sorted(args.tables, key=lambda p: p.name):
        errors += read_table(path, forms)
    for form in forms:
        if form.feature not in features:
            errors.append(f"{form.where}: unknown feature '{form.feature}'")
    if not errors:
        words, roots, errors = build_trees(forms)
    if errors:
        for error in dict.fromkeys(errors):
            print(error, file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    semantics = list(dict.fromkeys(form.semantics for form in forms))
    write(args.out / "sem.inc",
          ["// Generated by tools/insn_table.py from src/cpu/table/*.tab."] + [f"S({name})" for name in semantics])
    write_forms(args.out / "insn_table.inc", forms)
    write_decoder(args.out / "decode_tables.inc", forms, words, roots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
