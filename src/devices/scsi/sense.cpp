// husk: both formats of SCSI sense data
#include "devices/scsi/sense.h"

#include "base/bits.h"

namespace husk::devices::scsi {

SenseBytes encode(const Sense& sense, bool descriptor) {
  SenseBytes out;
  auto& b = out.bytes;
  const auto asc = static_cast<std::uint8_t>(sense.code >> 8);
  const auto ascq = static_cast<std::uint8_t>(sense.code);
  if (descriptor) {
    b[0] = 0x72;
    b[1] = static_cast<std::uint8_t>(sense.key);
    b[2] = asc;
    b[3] = ascq;
    out.length = 8;
    if (sense.information) {
      b[7] = 12;
      b[8] = 0x00;  // the information descriptor (4.5.2.2)
      b[9] = 0x0A;
      b[10] = 0x80;
      store_be<std::uint64_t>(&b[12], *sense.information);
      out.length = 20;
    }
    return out;
  }
  b[0] = 0x70;
  b[2] = static_cast<std::uint8_t>(sense.key);
  if (sense.information && *sense.information <= 0xFFFFFFFF) {
    b[0] |= 0x80;
    store_be<std::uint32_t>(&b[3], static_cast<std::uint32_t>(*sense.information));
  }
  b[7] = 10;
  b[12] = asc;
  b[13] = ascq;
  out.length = 18;
  return out;
}

}  // namespace husk::devices::scsi
