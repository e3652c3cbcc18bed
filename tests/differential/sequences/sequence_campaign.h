// husk: runs random sequences on two engines, compares, shrinks what differs
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "base/result.h"
#include "machine.h"
#include "sequence_generator.h"

namespace husk::differential {

/// Instructions; a sequence that needs more has lost its way.
inline constexpr std::uint64_t kSequenceBudget = 4000;

struct SequenceCampaignOptions {
  std::string reference = "step", subject = "block";
  std::vector<SequenceMode> modes{std::begin(kSequenceModes), std::end(kSequenceModes)};
  std::uint64_t seed = 1;
  std::uint64_t first = 0;            ///< number of the first sequence
  std::uint64_t count = 0;            ///< of sequences; 0: no limit
  std::chrono::milliseconds time{0};  ///< 0: no limit
  unsigned most_differences = 3;      ///< then it ends
  bool all_flags = false;             ///< hold Engine::drops_dead_flags against the subject
  SequenceOptions sequences;
  std::vector<unsigned> keep;  ///< of the last sequence: only these items
};

struct SequenceDifference {
  SequenceMode mode;
  std::uint64_t number;
  Sequence sequence;               ///< shrunk
  std::vector<std::string> lines;  ///< what differs
  std::string text;                ///< all for people: what differs, the start, the instructions, how to run it again
};

struct SequenceReport {
  std::uint64_t compared = 0, discarded = 0, instructions = 0, stops = 0, transient = 0;
  double seconds = 0;
  std::vector<SequenceDifference> differences;
};
std::string summary(const SequenceReport& report);

/// Runs a sequence in two ways.
class SequenceComparer {
 public:
  virtual ~SequenceComparer() = default;
  /// What differs; nothing also if the sequence cannot be laid out or does not end. `counts` may be null.
  virtual std::vector<std::string> compare(const Sequence& sequence, SequenceReport* counts) = 0;
  /// Forgets all that earlier sequences left.
  virtual void renew() = 0;
  virtual std::string_view reference() const = 0;
  virtual std::string_view subject() const = 0;
  /// Rounds of the whole sequence that must differ before it counts.
  virtual unsigned confirmations() const { return 1; }
};

class EngineComparer final : public SequenceComparer {
 public:
  EngineComparer(const Engine& reference, const Engine& subject);
  std::vector<std::string> compare(const Sequence& sequence, SequenceReport* counts) override;
  void renew() override;
  std::string_view reference() const override { return reference_.name; }
  std::string_view subject() const override { return subject_.name; }

 private:
  Engine reference_, subject_;
  std::unique_ptr<SequenceMachine> reference_machine_, subject_machine_;
  Run reference_run_, subject_run_;
};

class SequenceCampaign {
 public:
  /// With engines by name. An error: there is no such one.
  static Result<SequenceCampaign> create(SequenceCampaignOptions options);
  SequenceCampaign(SequenceCampaignOptions options, std::unique_ptr<SequenceComparer> comparer);
  SequenceReport run();

 private:
  void take(const Sequence& sequence, std::uint64_t number, std::vector<std::string> lines, SequenceReport& report);
  Sequence made(std::uint64_t number);
  /// Compares on fresh machines that have run the `before` sequences in front of this one.
  std::vector<std::string> compare_after(std::uint64_t before, std::uint64_t number, const Sequence& sequence);
  void shrink(Sequence& sequence, std::uint64_t number, std::uint64_t before, std::vector<std::string>& lines);
  std::string describe(const Sequence& sequence, std::uint64_t number, const std::vector<std::string>& lines,
                       std::uint64_t before, bool repeats) const;

  SequenceCampaignOptions options_;
  std::unique_ptr<SequenceComparer> comparer_;
  SequenceGenerator generator_;
};

}  // namespace husk::differential
