// husk: runs tests on the host's own CPU, in a sandboxed child process
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "cpu/features.h"
#include "test_case.h"

namespace husk::differential {

/// What this host's CPUID offers of husk's features.
cpu::FeatureSet host_features();
/// Empty if tests can run here, else what is missing.
std::string host_lacks();

class HostCpu {
 public:
  /// Starts the child. `data` are the kDataSize bytes that each test finds, but for its pokes.
  static Result<std::unique_ptr<HostCpu>> start(std::span<const std::uint8_t> data);
  ~HostCpu();
  HostCpu(const HostCpu&) = delete;
  HostCpu& operator=(const HostCpu&) = delete;

  /// Hands up to kBatch tests to the child and returns at once. At most two batches may be out; where a test's code
  /// lies (its rip, see insn_address) no other test that is out may have its own.
  void submit(std::span<const Test> tests);
  /// Waits for the oldest batch. `outcomes` has as many as were submitted. An error: the child died or hung, and at
  /// which test; it is gone then.
  Status collect(std::span<Outcome> outcomes);
  /// Runs code of any length at request.rip in kLowCode, while nothing else is out, until it faults: it must end in an
  /// instruction that does. `rip` of the outcome is the fault's. Takes away the gate that tests leave through: submit()
  /// is for others.
  Status run_code(const Request& request, std::span<const std::uint8_t> code, Answer& answer);
  /// The test at which collect() failed.
  std::uint32_t failed_at() const { return failed_at_; }

  bool tiny_data() const { return tiny_data_; }

 private:
  HostCpu() = default;
  Status launch(std::span<const std::uint8_t> data);
  Status wait_for(const std::uint32_t& word, std::uint32_t old, unsigned seconds);
  Control& control() { return *reinterpret_cast<Control*>(shared_ + kControlOffset); }
  void place(const Test& test);

  std::uint8_t* shared_ = nullptr;
  int child_ = -1;
  std::uint32_t submitted_ = 0, collected_ = 0;
  std::uint32_t failed_at_ = 0;
  bool tiny_data_ = false;
  std::array<std::vector<std::uint64_t>, 2> next_rip_;
  std::array<std::vector<std::uint64_t>, 2> insn_rip_;
  std::array<std::vector<std::uint16_t>, 2> cs_;
  std::array<std::vector<std::uint64_t>, 2> slot_;  ///< offsets in the code
};

}  // namespace husk::differential
