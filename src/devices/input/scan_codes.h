// husk: key numbers and the codes that a PS/2 keyboard sends for them
#pragma once

#include <cstdint>

namespace husk::devices {

/// A key, by its scan code set 1 make code; keys with an E0 prefix have bit 7 set. It is the numbering of the RFB
/// protocol's extended key event. Print Screen is B7h and Pause C6h.
using KeyCode = std::uint8_t;
inline constexpr KeyCode kKeyLeftShift = 0x2A;
inline constexpr KeyCode kKeyRightShift = 0x36;
inline constexpr KeyCode kKeyLeftControl = 0x1D;
inline constexpr KeyCode kKeyRightControl = 0x9D;
inline constexpr KeyCode kKeyLeftAlt = 0x38;
inline constexpr KeyCode kKeyRightAlt = 0xB8;
inline constexpr KeyCode kKeyPrintScreen = 0xB7;
inline constexpr KeyCode kKeySysRq = 0x54;
inline constexpr KeyCode kKeyPause = 0xC6;

/// What the keyboard controller makes of a byte from the keyboard while it translates to set 1.
std::uint8_t translate_to_set1(std::uint8_t from_keyboard);
/// The make code in set 2 without its E0 prefix; 0 if no such key exists.
std::uint8_t set2_code(KeyCode key);
/// The make code in set 3, which has no prefixes; 0 if no such key exists.
std::uint8_t set3_code(KeyCode key);

/// How a key of set 3 behaves after reset (IBM PS/2 Keyboard technical reference, table of key types).
enum KeyType : std::uint8_t { kKeyMakeOnly = 0, kKeySendsBreak = 1, kKeyRepeats = 2 };
std::uint8_t set3_default_type(std::uint8_t set3);

}  // namespace husk::devices
