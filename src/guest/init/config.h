// husk: the description of what husk's guest program is to do
#pragma once

#include "report.h"

namespace husk::guest {

struct Config {
  static constexpr Size kMostShares = 64;
  static constexpr Size kMostNames = 64;  ///< modules, fresh folders, disks: each
  struct Share {
    bool read_only;
    const char* tag;
    const char* path;
  };
  template <class T, Size kMost>
  struct List {
    T items[kMost];
    Size count = 0;
    const T* begin() const { return items; }
    const T* end() const { return items + count; }
    bool add(T item) {
      if (count == kMost) return false;
      items[count++] = item;
      return true;
    }
  };
  List<const char*, kMostNames> modules, fresh, disks;
  List<Share, kMostShares> shares;
  const char* root = nullptr;
  const char* upper = nullptr;
  bool ninep = false;  ///< shares are mounted by 9P, not by virtio-fs
  bool tty_in = false, tty_out = false, tty_err = false;
  unsigned long rows = 0, columns = 0;
  const char* network = nullptr;
  const char* hostname = "husk";
  unsigned long uid = 0, gid = 0, umask = 022;
  unsigned groups[1024];
  Size group_count = 0;
  const char* cwd = "/";
  char** arguments = nullptr;    ///< ended by a null
  char** environment = nullptr;  ///< ended by a null
  bool any_tty() const { return tty_in || tty_out || tty_err; }
};

/// Reads kConfigPath. Its text, and what the lists point at, stays in memory.
void read_config(const Control& control, Config& config);

}  // namespace husk::guest
