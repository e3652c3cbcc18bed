// husk: a run of differential tests: makes them, has both processors run them, compares, shrinks what differs
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "compare.h"
#include "generator.h"
#include "guest_cpu.h"
#include "host_cpu.h"

namespace husk::differential {

struct CampaignOptions {
  bool jit = false;  ///< the JIT instead of the interpreter alone
  std::uint64_t seed = 1;
  std::chrono::milliseconds time{0};  ///< 0: no limit
  std::uint64_t tests = 0;            ///< 0: no limit
  std::string only;                   ///< part of a form's name; empty: all
  bool long64 = true, compat32 = true;
  unsigned mismatches_per_form = 1;  ///< more of the same form are counted, not kept
};

struct FormCount {
  bool wanted = false;
  std::uint64_t run = 0, faulted = 0, mismatched = 0, not_made = 0;
};

struct Mismatch {
  Test test;  ///< shrunk
  Outcome host, guest;
  std::vector<std::string> differences;
};

struct Report {
  std::uint64_t compared = 0, faulted = 0, mismatched = 0, transient = 0;
  double seconds = 0;
  std::vector<std::array<FormCount, 2>> forms;  ///< [form][mode]
  std::vector<Mismatch> mismatches;
  std::string broken;  ///< the child could not go on
};

class Campaign {
 public:
  explicit Campaign(CampaignOptions options);
  /// An error: the host cannot be asked.
  husk::Result<Report> run();

 private:
  struct Choice {
    std::uint16_t form;
    Mode mode;
  };
  struct Batch {
    std::vector<Test> tests;
    std::vector<Outcome> host;
  };
  void choose_forms();
  void fill(Batch& batch, unsigned set);
  Status examine(Batch& batch);
  Status take_mismatch(const Test& test);
  Status ask_host(const Test& test, Outcome& host);
  Result<bool> still_differs(const Test& test, Mismatch& found);
  Status shrink(Mismatch& mismatch);
  bool cached(const Test& test) const;

  CampaignOptions options_;
  cpu::FeatureSet features_;
  std::vector<std::uint8_t> data_;
  std::unique_ptr<HostCpu> host_;
  std::unique_ptr<GuestCpu> guest_;
  std::unique_ptr<Generator> generator_;
  std::vector<Choice> choices_;
  std::size_t next_choice_ = 0;
  std::unique_ptr<Outcome> guest_outcome_ = std::make_unique<Outcome>();
  std::vector<std::pair<unsigned, Test>> suspects_;
  Report report_;
};

/// What the host makes of single tests; for recording vectors. Their rips must be insn_address()es.
class HostRecorder {
 public:
  static husk::Result<HostRecorder> start();
  husk::Result<Outcome> run(const Test& test);
  /// A random test of the form that runs through, if one is found soon.
  std::optional<Test> sample(std::uint16_t form, Mode mode, Outcome& outcome);

 private:
  HostRecorder() = default;
  std::unique_ptr<HostCpu> host_;
  std::unique_ptr<Generator> generator_;
};

/// Features that tests may use: the host's and the model's.
cpu::FeatureSet shared_features();

}  // namespace husk::differential
