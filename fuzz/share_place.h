// husk: what the fuzz targets of the file servers share: input as numbers, and a small directory with a secret beside
// it
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>

#include "base/check.h"

namespace husk::fuzz {

class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  bool more() const { return !rest_.empty(); }
  std::uint8_t byte() {
    if (rest_.empty()) return 0;
    const std::uint8_t value = rest_.front();
    rest_ = rest_.subspan(1);
    return value;
  }
  std::span<const std::uint8_t> take(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const std::uint8_t> rest_;
};

/// A secret beside the share, whose content must never be seen in an answer.
inline constexpr char kSecret[] = "OUT-OF-REACH-0123456789";

/// Whether the secret is in there. Not by a function of the C library, nor with the comparisons traced: the fuzzer
/// would learn the secret and write it itself.
__attribute__((no_sanitize("coverage"))) inline bool has_secret(std::span<const std::uint8_t> bytes) {
  constexpr std::size_t kLength = sizeof kSecret - 1;
  for (std::size_t at = 0; at + kLength <= bytes.size(); ++at) {
    std::size_t same = 0;
    while (same < kLength && bytes[at + same] == static_cast<std::uint8_t>(kSecret[same])) ++same;
    if (same == kLength) return true;
  }
  return false;
}

struct Place {
  std::filesystem::path base;
  Place() {
    // In memory where there is a place for it: a disk would set the pace.
    std::string pattern = "/dev/shm/husk-hostfs-fuzz-XXXXXX";
    if (!::mkdtemp(pattern.data())) {
      pattern = "/tmp/husk-hostfs-fuzz-XXXXXX";
      HUSK_CHECK(::mkdtemp(pattern.data()));
    }
    base = pattern;
    std::ofstream(base / "secret") << kSecret;
    // A request may ask for a file of any size.
    const rlimit limit{1 << 20, 1 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::signal(SIGXFSZ, SIG_IGN);
  }
  ~Place() {
    std::error_code ignored;
    std::filesystem::remove_all(base, ignored);
  }
  void refill() const {
    std::error_code ignored;
    std::filesystem::remove_all(base / "share", ignored);
    std::filesystem::create_directories(base / "share/d/e");
    std::ofstream(base / "share/a") << "content";
    std::filesystem::create_symlink("../secret", base / "share/l");
  }
};

}  // namespace husk::fuzz
