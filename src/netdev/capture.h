// husk: a network whose frames are also written to a file
#pragma once

#include <memory>

#include "core/net_backend.h"
#include "netdev/packet_capture.h"

namespace husk::netdev {

/// Passes everything on to `inner` and writes each frame that the card sends or takes, as the card has it: a frame that
/// the network still has to segment, or whose checksum it still has to complete, is written so.
std::unique_ptr<core::NetBackend> captured(std::unique_ptr<core::NetBackend> inner, PacketCapture capture);

}  // namespace husk::netdev
