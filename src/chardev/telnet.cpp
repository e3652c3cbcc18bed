// husk: the telnet protocol's framing (RFC 854) between a socket and a character device
#include "chardev/telnet.h"

namespace husk::chardev {
namespace {
// RFC 854, "TELNET command structure".
constexpr std::uint8_t kSe = 240, kBreak = 243, kSb = 250, kWill = 251, kDo = 253, kDont = 254;
constexpr std::uint8_t kBinary = 0, kEcho = 1, kSuppressGoAhead = 3;
constexpr std::uint8_t kGreeting[] = {
    TelnetDecoder::kIac, kWill, kEcho,   TelnetDecoder::kIac, kWill, kSuppressGoAhead,
    TelnetDecoder::kIac, kWill, kBinary, TelnetDecoder::kIac, kDo,   kBinary,
};
}  // namespace

std::span<const std::uint8_t> TelnetDecoder::greeting() { return kGreeting; }

unsigned TelnetDecoder::decode(std::span<const std::uint8_t> input, std::vector<std::uint8_t>& data) {
  unsigned breaks = 0;
  for (const std::uint8_t byte : input) {
    switch (state_) {
      case State::carriage_return:
        state_ = State::data;
        // RFC 854, "The NVT printer and keyboard": CR NUL is a bare CR.
        if (byte == 0) break;
        [[fallthrough]];
      case State::data:
        if (byte == kIac) {
          state_ = State::iac;
        } else {
          data.push_back(byte);
          if (byte == '\r') state_ = State::carriage_return;
        }
        break;
      case State::iac:
        state_ = State::data;
        if (byte == kIac)
          data.push_back(kIac);
        else if (byte == kBreak)
          ++breaks;
        else if (byte == kSb)
          state_ = State::sub;
        else if (byte >= kWill && byte <= kDont)
          state_ = State::option;
        break;
      case State::option: state_ = State::data; break;
      case State::sub:
        if (byte == kIac) state_ = State::sub_iac;
        break;
      case State::sub_iac: state_ = byte == kSe ? State::data : State::sub; break;
    }
  }
  return breaks;
}

}  // namespace husk::chardev
