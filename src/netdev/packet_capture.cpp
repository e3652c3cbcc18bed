// husk: a file of network frames
#include "netdev/packet_capture.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <ctime>

namespace husk::netdev {

Result<PacketCapture> PacketCapture::create(const std::string& path, std::uint32_t kept) {
  std::FILE* const file = std::fopen(path.c_str(), "wbe");
  if (!file) return fail_errno(errno, "cannot write the packet capture " + path);
  PacketCapture capture(file, std::clamp(kept, 1u, kMostBytes));
  // Magic of nanosecond time stamps, version 2.4, UTC, accuracy 0, snapshot length, LINKTYPE_ETHERNET.
  const std::uint32_t header[6] = {0xA1B23C4D, 2u | (4u << 16), 0, 0, capture.kept_, 1};
  if constexpr (std::endian::native == std::endian::big) {
    const std::uint32_t big[6] = {0xA1B23C4D, (2u << 16) | 4u, 0, 0, capture.kept_, 1};
    std::fwrite(big, sizeof big, 1, file);
  } else {
    std::fwrite(header, sizeof header, 1, file);
  }
  std::fflush(file);
  return capture;
}

void PacketCapture::add(std::span<const std::uint8_t> frame) {
  std::timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const auto length = static_cast<std::uint32_t>(frame.size());
  const std::uint32_t kept = std::min(length, kept_);
  const std::uint32_t header[4] = {static_cast<std::uint32_t>(now.tv_sec), static_cast<std::uint32_t>(now.tv_nsec),
                                   kept, length};
  std::fwrite(header, sizeof header, 1, file_.get());
  std::fwrite(frame.data(), 1, kept, file_.get());
  // A reader may follow the file, and a crash should not lose what led to it.
  std::fflush(file_.get());
}

}  // namespace husk::netdev
