// husk: one SCSI command on its way through a logical unit
#include "devices/scsi/command.h"

#include <algorithm>
#include <cstring>

namespace husk::devices::scsi {

std::size_t Command::read_out(std::uint64_t offset, std::span<std::uint8_t> into) const {
  std::size_t copied = 0;
  for (const core::BlockSpan& span : out) {
    if (copied == into.size()) break;
    if (offset >= span.size()) {
      offset -= span.size();
      continue;
    }
    const std::size_t count =
        std::min<std::size_t>(into.size() - copied, span.size() - static_cast<std::size_t>(offset));
    std::memcpy(into.data() + copied, span.data() + offset, count);
    copied += count;
    offset = 0;
  }
  return copied;
}

void Command::write_in(std::span<const std::uint8_t> from) {
  for (const core::BlockSpan& span : in) {
    const std::size_t count = std::min(from.size(), span.size());
    if (count) std::memcpy(span.data(), from.data(), count);
    from = from.subspan(count);
    moved += count;
  }
}

std::vector<core::BlockSpan> first_bytes(std::span<const core::BlockSpan> spans, std::uint64_t length) {
  std::vector<core::BlockSpan> first;
  for (const core::BlockSpan& span : spans) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(length, span.size()));
    if (count) first.push_back(span.first(count));
    length -= count;
  }
  return first;
}

}  // namespace husk::devices::scsi
