// husk: address and count in the CDBs of reads, writes and their kin
#pragma once

#include <cstdint>
#include <span>

#include "base/bits.h"

namespace husk::devices::scsi {

struct Extent {
  std::uint64_t lba = 0;
  std::uint64_t count = 0;  ///< blocks
};

/// The usual places by the size of the CDB, 6, 10, 12 or 16 bytes (SPC-4, 4.2.5.1). In 6 bytes a count of 0 means 256
/// (SBC-3, 5.9).
inline Extent extent_of(std::span<const std::uint8_t, 16> cdb) {
  switch (cdb[0] >> 5) {
    case 0: return {load_be<std::uint32_t>(&cdb[0]) & 0x1FFFFFu, cdb[4] ? cdb[4] : 256u};
    case 1:
    case 2: return {load_be<std::uint32_t>(&cdb[2]), load_be<std::uint16_t>(&cdb[7])};
    case 5: return {load_be<std::uint32_t>(&cdb[2]), load_be<std::uint32_t>(&cdb[6])};
    default: return {load_be<std::uint64_t>(&cdb[2]), load_be<std::uint32_t>(&cdb[10])};
  }
}

}  // namespace husk::devices::scsi
