// husk: checksum and segmentation offloads done in software, for backends that cannot
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "core/net_backend.h"

namespace husk::devices::virtio {

/// Fills in the checksum that `offload` asks for. False if it lies outside the frame.
bool complete_checksum(std::span<std::uint8_t> frame, const core::NetOffload& offload);

/// Cuts a TCP frame over IPv4 or IPv6 into frames of at most segment_size payload bytes, with right lengths, sequence
/// numbers, flags and checksums. False if it is not what the offload says; then nothing has been sent.
bool segment_tcp(std::span<const std::uint8_t> frame, const core::NetOffload& offload,
                 const std::function<void(std::span<const std::uint8_t>)>& send);

}  // namespace husk::devices::virtio
