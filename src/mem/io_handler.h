// husk: the contract between the bus and whatever answers on it
#pragma once

#include <cstdint>

namespace husk::mem {

using Gpa = std::uint64_t;  ///< guest-physical address, or a port number in an I/O space

/// Who makes an access. It matters: a CPU's store to 0xFEE00000 is a local-APIC register, a device's an MSI.
struct Requester {
  enum class Kind : std::uint8_t { cpu, device, debugger } kind = Kind::device;
  std::uint16_t id = 0;  ///< vCPU index, or PCI requester id (bus:8 device:5 function:3)

  static constexpr Requester cpu(unsigned index) { return {Kind::cpu, static_cast<std::uint16_t>(index)}; }
  static constexpr Requester device(std::uint16_t rid) { return {Kind::device, rid}; }
};

/// One access to a handler. `offset` is relative to the start of the mapping; `size` is 1, 2, 4 or 8 bytes and the
/// access lies wholly inside the mapping. It need not be aligned.
struct Access {
  Requester who;
  std::uint64_t offset;
  std::uint8_t size;
};

/// Something mapped into an AddressSpace. Calls come with the mapping's lock domain held.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  /// The value read, in the low `size` bytes; the caller ignores the rest.
  virtual std::uint64_t read(const Access& access) = 0;
  /// `value` has been cut to `size` bytes.
  virtual void write(const Access& access, std::uint64_t value) = 0;
};

}  // namespace husk::mem
