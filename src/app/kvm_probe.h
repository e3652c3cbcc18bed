// husk: whether this host's KVM works, and how fast a guest runs in it
#pragma once

#include <string>

namespace husk::app {

struct KvmReport {
  enum class State : unsigned char {
    absent,     ///< there is no /dev/kvm
    no_access,  ///< this user may not open it
    broken,     ///< it opens, but no guest runs in it
    slow,       ///< a guest runs, but so slowly that its instructions must be emulated
    usable,     ///< a guest runs at hardware speed
  } state = State::absent;
  /// Of a counting loop, in millions of instructions a second; 0 unless slow or usable.
  double million_per_second = 0;
  std::string detail;     ///< what failed, with its errno text
  std::string next_step;  ///< what to do about it; empty if usable
};

/// "absent", "no access" and so on.
const char* to_text(KvmReport::State state);

/// Below this a guest is not running on the CPU itself: the slowest CPUs with virtualization do over a thousand, and
/// emulated guests a few tens.
inline constexpr double kHardwareSpeed = 200;

enum class ProbeDepth : unsigned char {
  decide,   ///< only whether guests run at hardware speed: some microseconds of guest code, or a few milliseconds if
            ///< slow
  measure,  ///< how fast, over at least 60 ms
};

/// Runs a small 64-bit guest in a child process, so that a KVM that hangs or crashes takes nothing with it. Flags in
/// /proc/cpuinfo prove nothing: there are hosts whose KVM works without them. Takes up to five seconds if KVM hangs. To
/// be called before other threads are started.
KvmReport probe_kvm(ProbeDepth depth, const std::string& device = "/dev/kvm");

}  // namespace husk::app
