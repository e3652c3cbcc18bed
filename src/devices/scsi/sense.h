// husk: SCSI status, sense keys and codes, and both formats of sense data
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace husk::devices::scsi {

/// SAM-5, 5.3.1.
enum class CommandStatus : std::uint8_t { good = 0x00, check_condition = 0x02, busy = 0x08, task_aborted = 0x40 };

/// SPC-4, table 53.
enum class Key : std::uint8_t {
  no_sense = 0x0,
  not_ready = 0x2,
  medium_error = 0x3,
  hardware_error = 0x4,
  illegal_request = 0x5,
  unit_attention = 0x6,
  data_protect = 0x7,
  aborted_command = 0xB,
  miscompare = 0xE,
};

struct Sense {
  Key key = Key::no_sense;
  std::uint16_t code = 0;  ///< ASC in the upper byte, ASCQ in the lower (SPC-4, annex F.2)
  std::optional<std::uint64_t> information = {};
};

inline constexpr Sense kNoSense{};
inline constexpr Sense kBecomingReady{Key::not_ready, 0x0402};  // initializing command required
inline constexpr Sense kNoMedium{Key::not_ready, 0x3A00};
inline constexpr Sense kNoMediumTrayClosed{Key::not_ready, 0x3A01};
inline constexpr Sense kNoMediumTrayOpen{Key::not_ready, 0x3A02};
inline constexpr Sense kReadError{Key::medium_error, 0x1100};
inline constexpr Sense kWriteError{Key::medium_error, 0x0C00};
inline constexpr Sense kInvalidOpcode{Key::illegal_request, 0x2000};
inline constexpr Sense kOutOfRange{Key::illegal_request, 0x2100};
inline constexpr Sense kInvalidField{Key::illegal_request, 0x2400};
inline constexpr Sense kUnknownUnit{Key::illegal_request, 0x2500};
inline constexpr Sense kInvalidParameter{Key::illegal_request, 0x2600};
inline constexpr Sense kParameterLength{Key::illegal_request, 0x1A00};
inline constexpr Sense kNoSaving{Key::illegal_request, 0x3900};
inline constexpr Sense kRemovalPrevented{Key::illegal_request, 0x5302};
inline constexpr Sense kWriteProtected{Key::data_protect, 0x2700};
inline constexpr Sense kSpaceFailed{Key::data_protect, 0x2707};
inline constexpr Sense kMiscompare{Key::miscompare, 0x1D00};
inline constexpr Sense kTargetFailure{Key::hardware_error, 0x4400};

// Unit attentions.
inline constexpr std::uint16_t kMediumChanged = 0x2800;
inline constexpr std::uint16_t kPowerOnReset = 0x2900;
inline constexpr std::uint16_t kUnitReset = 0x2903;
inline constexpr std::uint16_t kCapacityChanged = 0x2A09;
inline constexpr std::uint16_t kUnitsChanged = 0x3F0E;

struct SenseBytes {
  std::array<std::uint8_t, 32> bytes{};
  std::size_t length = 0;
};
/// SPC-4, 4.5: fixed format, 18 bytes, or descriptor format. An information that needs more than 32 bits is left out
/// of the fixed format (4.5.3: VALID is zero then).
SenseBytes encode(const Sense& sense, bool descriptor);

}  // namespace husk::devices::scsi
