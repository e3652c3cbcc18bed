// husk: the telnet protocol's framing (RFC 854) between a socket and a character device
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace husk::chardev {

/// The server's side of one telnet connection: takes commands out of what the client sends. It offers echo (RFC 857),
/// suppressed go-ahead (RFC 858) and binary transmission (RFC 856), which puts a client into character mode, and
/// answers nothing else, so that no negotiation can loop.
class TelnetDecoder {
 public:
  /// What to send first.
  static std::span<const std::uint8_t> greeting();
  static constexpr std::uint8_t kIac = 255;  ///< sent as data it must be doubled

  /// Appends the data of `input` to `data`; returns how many breaks (BRK) were in it. Commands may be cut anywhere.
  unsigned decode(std::span<const std::uint8_t> input, std::vector<std::uint8_t>& data);

 private:
  enum class State : std::uint8_t { data, carriage_return, iac, option, sub, sub_iac } state_ = State::data;
};

}  // namespace husk::chardev
