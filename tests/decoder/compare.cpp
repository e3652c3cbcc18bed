// husk: the long comparison of the decoder with Zydis, run by hand: random byte strings and the code of binaries
#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string_view>
#include <vector>

#include "byte_source.h"
#include "zydis_compare.h"

namespace {

using namespace husk::cpu;
using namespace husk::cpu::testing;

constexpr CodeSize kCodeSizes[] = {CodeSize::bits16, CodeSize::bits32, CodeSize::bits64};

/// The bytes of section .text of a 64-bit ELF file; empty if there is none.
std::vector<std::uint8_t> text_of(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::uint8_t> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Elf64_Ehdr header;
  if (bytes.size() < sizeof header) return {};
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64) return {};
  const auto section = [&](std::size_t index) {
    Elf64_Shdr out{};
    const std::size_t at = header.e_shoff + index * sizeof out;
    if (at + sizeof out <= bytes.size()) std::memcpy(&out, bytes.data() + at, sizeof out);
    return out;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  for (std::size_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr s = section(i);
    const std::size_t name = names.sh_offset + s.sh_name;
    if (name + 6 > bytes.size() || std::memcmp(bytes.data() + name, ".text", 6) != 0) continue;
    if (s.sh_offset + s.sh_size > bytes.size()) return {};
    return {bytes.begin() + static_cast<std::ptrdiff_t>(s.sh_offset),
            bytes.begin() + static_cast<std::ptrdiff_t>(s.sh_offset + s.sh_size)};
  }
  return {};
}

int report(std::string_view what, std::span<const Comparison> comparisons) {
  std::uint64_t compared = 0;
  std::uint64_t valid = 0;
  std::uint64_t justified = 0;
  for (const Comparison& c : comparisons) {
    compared += c.compared();
    valid += c.valid();
    for (const auto& [key, kind] : c.differences()) justified += kind.count;
  }
  const std::vector<std::string> lines = unjustified(comparisons);
  fmt::print("{}: {} byte strings, {} valid for both, {} differences in all, {} unjustified kinds\n", what, compared,
             valid, justified, lines.size());
  for (const std::string& line : lines) fmt::print("  {}\n", line);
  return lines.empty() ? 0 : 1;
}

int sweep(const char* path) {
  const std::vector<std::uint8_t> text = text_of(path);
  if (text.empty()) {
    fmt::print(stderr, "{}: no .text section of a 64-bit ELF file; give a binary of this host\n", path);
    return 2;
  }
  Comparison comparison(CodeSize::bits64);
  for (std::size_t at = 0; at < text.size();) {
    at += comparison.compare(std::span(text).subspan(at, std::min<std::size_t>(16, text.size() - at)));
  }
  return report(path, {&comparison, 1});
}

int random_run(std::uint64_t count, std::uint64_t seed) {
  std::vector<Comparison> comparisons;
  std::mt19937_64 random(seed);
  for (const CodeSize size : kCodeSizes) {
    Comparison& comparison = comparisons.emplace_back(size);
    for (std::uint64_t i = 0; i < count / 3; ++i) comparison.compare(random_sample(size, random));
  }
  return report(fmt::format("random, seed {}", seed), comparisons);
}

int exhaustive_run() {
  std::vector<Comparison> comparisons;
  std::mt19937_64 random(1);
  for (const CodeSize size : kCodeSizes) {
    Comparison& comparison = comparisons.emplace_back(size);
    for_each_opcode(size, random, [&](const Sample& sample) { comparison.compare(sample); });
  }
  return report("every opcode", comparisons);
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t count = 0;
  std::uint64_t seed = std::random_device{}();
  bool exhaustive = false;
  std::vector<const char*> files;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    const auto number = [&](std::uint64_t& out) {
      if (++i >= argc) return false;
      const std::string_view text = argv[i];
      return std::from_chars(text.data(), text.data() + text.size(), out).ec == std::errc{};
    };
    if (arg == "--every-opcode") {
      exhaustive = true;
    } else if (arg == "--random" ? !number(count) : arg == "--seed" ? !number(seed) : arg.starts_with("-")) {
      fmt::print(stderr, "usage: decoder_compare [--every-opcode] [--random COUNT] [--seed N] [ELF-FILE...]\n");
      return 2;
    } else if (!arg.starts_with("-")) {
      files.push_back(argv[i]);
    }
  }
  int status = 0;
  if (exhaustive) status = std::max(status, exhaustive_run());
  if (count != 0) status = std::max(status, random_run(count, seed));
  for (const char* file : files) status = std::max(status, sweep(file));
  return status;
}
