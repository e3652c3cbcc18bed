// husk: checksum and segmentation offloads done in software
#include "devices/virtio/net_offload.h"

#include <algorithm>
#include <vector>

#include "base/bits.h"

namespace husk::devices::virtio {

namespace {
/// RFC 1071: the ones' complement sum, not yet folded.
std::uint64_t sum(std::span<const std::uint8_t> bytes, std::uint64_t start = 0) {
  std::uint64_t total = start;
  std::size_t at = 0;
  for (; at + 1 < bytes.size(); at += 2) total += load_be<std::uint16_t>(&bytes[at]);
  if (at < bytes.size()) total += std::uint64_t{bytes[at]} << 8;
  return total;
}
std::uint16_t folded(std::uint64_t total) {
  while (total >> 16) total = (total & 0xFFFF) + (total >> 16);
  return static_cast<std::uint16_t>(~total);
}

constexpr std::size_t kEthernet = 14;
constexpr unsigned kFin = 0x01, kPush = 0x08, kCwr = 0x80;

struct Headers {
  std::size_t ip = kEthernet;
  std::size_t tcp = 0;
  std::size_t payload = 0;
  bool v6 = false;
};

bool parse(std::span<const std::uint8_t> frame, bool v6, Headers& h) {
  if (frame.size() < kEthernet) return false;
  auto type = load_be<std::uint16_t>(&frame[12]);
  if (type == 0x8100) {
    h.ip += 4;
    if (frame.size() < h.ip) return false;
    type = load_be<std::uint16_t>(&frame[16]);
  }
  h.v6 = v6;
  if (type != (v6 ? 0x86DD : 0x0800)) return false;
  if (v6) {
    // Segmented frames carry TCP directly behind the fixed header.
    if (frame.size() < h.ip + 40 || frame[h.ip] >> 4 != 6 || frame[h.ip + 6] != 6) return false;
    h.tcp = h.ip + 40;
  } else {
    if (frame.size() < h.ip + 20 || frame[h.ip] >> 4 != 4 || frame[h.ip + 9] != 6) return false;
    const std::size_t length = (frame[h.ip] & 0xFu) * 4u;
    if (length < 20) return false;
    h.tcp = h.ip + length;
  }
  if (frame.size() < h.tcp + 20) return false;
  const std::size_t length = (frame[h.tcp + 12] >> 4) * 4u;
  h.payload = h.tcp + length;
  return length >= 20 && h.payload <= frame.size();
}
}  // namespace

bool complete_checksum(std::span<std::uint8_t> frame, const core::NetOffload& offload) {
  const std::size_t place = std::size_t{offload.checksum_start} + offload.checksum_offset;
  if (offload.checksum_start >= frame.size() || place + 2 > frame.size()) return false;
  // The driver put the pseudo header's sum into the field, so a plain sum from the start completes it.
  std::uint16_t value = folded(sum(frame.subspan(offload.checksum_start)));
  if (value == 0) value = 0xFFFF;  // UDP: zero would mean none; for TCP both are the same number
  store_be<std::uint16_t>(&frame[place], value);
  return true;
}

bool segment_tcp(std::span<const std::uint8_t> frame, const core::NetOffload& offload,
                 const std::function<void(std::span<const std::uint8_t>)>& send) {
  Headers h;
  const bool v6 = offload.segmentation == core::NetOffload::Segmentation::tcp6;
  if (!parse(frame, v6, h) || offload.segment_size == 0) return false;
  const std::size_t total = frame.size() - h.payload;
  // One byte a segment would be 60 times the work for the host: no real path has so small a one.
  const std::size_t size = std::max<std::size_t>(offload.segment_size, 64);
  const auto sequence = load_be<std::uint32_t>(&frame[h.tcp + 4]);
  const auto first_id = v6 ? std::uint16_t{0} : load_be<std::uint16_t>(&frame[h.ip + 4]);
  const std::uint8_t flags = frame[h.tcp + 13];
  std::vector<std::uint8_t> out;
  for (std::size_t at = 0, index = 0; at == 0 || at < total; at += size, ++index) {
    const std::size_t count = std::min(size, total - at);
    const bool last = at + count >= total;
    out.assign(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(h.payload));
    out.insert(out.end(), frame.begin() + static_cast<std::ptrdiff_t>(h.payload + at),
               frame.begin() + static_cast<std::ptrdiff_t>(h.payload + at + count));
    const std::size_t tcp_length = out.size() - h.tcp;
    std::uint64_t pseudo = 6 + tcp_length;
    if (v6) {
      store_be<std::uint16_t>(&out[h.ip + 4], static_cast<std::uint16_t>(tcp_length));
      pseudo = sum({&out[h.ip + 8], 32}, pseudo);
    } else {
      store_be<std::uint16_t>(&out[h.ip + 2], static_cast<std::uint16_t>(out.size() - h.ip));
      store_be<std::uint16_t>(&out[h.ip + 4], static_cast<std::uint16_t>(first_id + index));
      store_be<std::uint16_t>(&out[h.ip + 10], std::uint16_t{0});
      store_be<std::uint16_t>(&out[h.ip + 10], folded(sum({&out[h.ip], h.tcp - h.ip})));
      pseudo = sum({&out[h.ip + 12], 8}, pseudo);
    }
    store_be<std::uint32_t>(&out[h.tcp + 4], sequence + static_cast<std::uint32_t>(at));
    unsigned now = flags;
    if (!last) now &= ~(kFin | kPush);
    if (index != 0) now &= ~kCwr;
    out[h.tcp + 13] = static_cast<std::uint8_t>(now);
    store_be<std::uint16_t>(&out[h.tcp + 16], std::uint16_t{0});
    store_be<std::uint16_t>(&out[h.tcp + 16], folded(sum({&out[h.tcp], tcp_length}, pseudo)));
    send(out);
  }
  return true;
}

}  // namespace husk::devices::virtio
