// husk: a file of network frames that tcpdump and Wireshark read
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace husk::netdev {

/// The classic pcap format with nanoseconds (magic a1b23c4d), Ethernet. Host byte order, as the format has it.
class PacketCapture {
 public:
  static constexpr std::uint32_t kMostBytes = 65536 + 64;
  /// Of each frame at most `kept` bytes are written, 1 to kMostBytes.
  static Result<PacketCapture> create(const std::string& path, std::uint32_t kept = kMostBytes);
  void add(std::span<const std::uint8_t> frame);

 private:
  PacketCapture(std::FILE* file, std::uint32_t kept) : file_(file), kept_(kept) {}
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
  std::uint32_t kept_;
};

}  // namespace husk::netdev
