// husk: what husk and its program in the guest say to each other
#pragma once

#include <cstdint>

namespace husk::guest {

/// The console's ports, in the order of their numbers (0 is left for a real console). The control port comes last: when
/// its "open" message has reached the guest, those of the others have too.
enum class Port : std::uint8_t { input = 1, output = 2, error = 3, control = 4 };

/// A message on the control port: this header, then `size` bytes. All numbers are little-endian.
struct MessageHeader {
  std::uint8_t kind;
  std::uint8_t zero;
  std::uint16_t size;
};
inline constexpr std::uint16_t kMostMessage = 4096;

/// From husk.
enum class ToGuest : std::uint8_t {
  signal = 1,         ///< u8: send this signal to the command's process group
  resize = 2,         ///< u16 rows, u16 columns
  input_end = 3,      ///< u64: standard input ends after that many bytes
  output_closed = 4,  ///< u8: nobody reads this Port any more
};

/// From the guest.
enum class ToHost : std::uint8_t {
  started = 1,      ///< the command runs
  exited = 2,       ///< u32 status as of wait(2), u64 bytes of output, u64 bytes of error output
  failed = 3,       ///< text: the guest could not be set up
  not_started = 4,  ///< u32 error number of execve(2), or 0 if it did not come that far; text: why
  log = 5,          ///< text: a part of the kernel's log, after a failure
};

/// The description of what to do, in the initramfs: strings "key=value", each ended by a NUL. Values are bytes as they
/// are. Unknown keys are errors.
///   module=FILE        load this kernel module (a file of the initramfs), in order
///   root=TAG           virtio-fs tag of the root file system, put read-only below a tmpfs
///   upper=TAG          virtio-fs tag of the directory that takes changes instead of the tmpfs
///   share=rw TAG PATH  mount a virtio-fs share there; ro: read-only
///   fresh=PATH         an empty tmpfs of mode 1777 there
///   disk=NAME          give this block device to the user
///   tty=ROWS COLUMNS   standard streams on a pseudo-terminal: tty-in, tty-out, tty-err say which
///   network=ADDRESS GATEWAY DNS
///   hostname=NAME uid=N gid=N group=N umask=N (decimal) cwd=PATH arg=TEXT env=NAME=VALUE
inline constexpr char kConfigPath[] = "/husk.config";

}  // namespace husk::guest
