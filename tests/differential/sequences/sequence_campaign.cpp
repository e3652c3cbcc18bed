// husk: runs random sequences on two engines, compares, shrinks what differs
#include "sequence_campaign.h"

#include <fmt/format.h>

#include <algorithm>

namespace husk::differential {

std::string summary(const SequenceReport& r) {
  return fmt::format(
      "{} sequences in {:.1f} s ({:.0f} a second), {} instructions, {} stops compared; {} discarded (endless, or "
      "strings over themselves); {} "
      "differ\n",
      r.compared, r.seconds, static_cast<double>(r.compared) / r.seconds, r.instructions, r.stops, r.discarded,
      r.differences.size(), r.transient);
}

EngineComparer::EngineComparer(const Engine& reference, const Engine& subject)
    : reference_(reference), subject_(subject) {
  renew();
}

void EngineComparer::renew() {
  reference_machine_ = std::make_unique<SequenceMachine>(reference_);
  subject_machine_ = std::make_unique<SequenceMachine>(subject_);
  reference_machine_->ignore_flags_at_faults(subject_.drops_dead_flags);
}

std::vector<std::string> EngineComparer::compare(const Sequence& sequence, SequenceReport* counts) {
  const std::optional<Program> program = assemble(sequence);
  if (!program || program->code.size() > arena::kCode + arena::kCodeSize - sequence.start) return {};
  reference_machine_->run(sequence, *program, kSequenceBudget, nullptr, reference_run_);
  if (reference_run_.over_budget || reference_run_.ambiguous || (reference_run_.open && subject_.translates)) {
    if (counts) ++counts->discarded;
    return {};
  }
  subject_machine_->run(sequence, *program, 4 * kSequenceBudget, &reference_run_, subject_run_);
  if (counts) {
    ++counts->compared;
    counts->instructions += reference_run_.instructions;
    counts->stops += reference_run_.snapshots.size();
  }
  return differences(reference_run_, subject_run_, subject_);
}

Result<SequenceCampaign> SequenceCampaign::create(SequenceCampaignOptions options) {
  const Engine* const reference = engine_named(options.reference);
  const Engine* const subject = engine_named(options.subject);
  if (!reference) return fail("there is no engine {:?}", options.reference);
  if (!subject) return fail("there is no engine {:?}", options.subject);
  for (const Engine* engine : {reference, subject})
    if (!SequenceMachine(*engine).usable())
      return fail("this host does not allow what the engine {:?} needs", engine->name);
  options.sequences.settle_flags |= reference->translates || subject->translates;
  Engine compared = *subject;
  if (options.all_flags) compared.drops_dead_flags = false;
  return SequenceCampaign(std::move(options), std::make_unique<EngineComparer>(*reference, compared));
}

SequenceCampaign::SequenceCampaign(SequenceCampaignOptions options, std::unique_ptr<SequenceComparer> comparer)
    : options_(std::move(options)), comparer_(std::move(comparer)), generator_(options_.sequences) {}

SequenceReport SequenceCampaign::run() {
  SequenceReport report;
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint64_t number = options_.first;; ++number) {
    if (options_.count != 0 && number - options_.first >= options_.count) break;
    if (options_.time.count() != 0 && std::chrono::steady_clock::now() - begin >= options_.time) break;
    if (report.differences.size() >= options_.most_differences) break;
    Sequence sequence = made(number);
    std::vector<std::string> lines = comparer_->compare(sequence, &report);
    if (!lines.empty()) take(sequence, number, std::move(lines), report);
  }
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

Sequence SequenceCampaign::made(std::uint64_t number) {
  Sequence sequence = generator_.make(options_.modes[number % options_.modes.size()], options_.seed, number);
  if (!options_.keep.empty() && number + 1 == options_.first + options_.count)
    for (unsigned i = 0; i < sequence.kept.size(); ++i)
      sequence.kept[i] = std::find(options_.keep.begin(), options_.keep.end(), i) != options_.keep.end();
  return sequence;
}

std::vector<std::string> SequenceCampaign::compare_after(std::uint64_t before, std::uint64_t number,
                                                         const Sequence& sequence) {
  comparer_->renew();
  for (std::uint64_t n = number - before; n < number; ++n) (void)comparer_->compare(made(n), nullptr);
  return comparer_->compare(sequence, nullptr);
}

void SequenceCampaign::take(const Sequence& sequence, std::uint64_t number, std::vector<std::string> lines,
                            SequenceReport& report) {
  SequenceDifference found{sequence.mode, number, sequence, std::move(lines), {}};
  // If it does not differ alone, as few of the sequences before it as will do.
  std::uint64_t before = 0;
  bool repeats = false;
  for (;;) {
    for (unsigned i = 0; i < comparer_->confirmations(); ++i) {
      std::vector<std::string> again = compare_after(before, number, sequence);
      repeats = !again.empty();
      if (repeats) found.lines = std::move(again);
      if (!repeats) break;
    }
    if (!repeats && comparer_->confirmations() > 1) {
      ++report.transient;
      return;
    }
    if (repeats || before == number - options_.first) break;
    before = std::min(before == 0 ? 1 : before * 4, number - options_.first);
  }
  if (repeats && options_.keep.empty() && before <= 64) shrink(found.sequence, number, before, found.lines);
  found.text = describe(found.sequence, number, found.lines, before, repeats);
  report.differences.push_back(std::move(found));
}

void SequenceCampaign::shrink(Sequence& sequence, std::uint64_t number, std::uint64_t before,
                              std::vector<std::string>& lines) {
  const std::size_t size = sequence.items.size();
  for (std::size_t piece = std::max<std::size_t>(size / 2, 1);; piece /= 2) {
    bool smaller = false;
    for (std::size_t at = 0; at < size; at += piece) {
      std::vector<bool> kept = sequence.kept;
      bool any = false;
      for (std::size_t i = at; i < std::min(at + piece, size); ++i) {
        any = any || sequence.kept[i];
        sequence.kept[i] = false;
      }
      if (!any) continue;
      // Each try on fresh machines: what is printed must repeat by itself.
      std::vector<std::string> found = compare_after(before, number, sequence);
      if (found.empty()) {
        sequence.kept = std::move(kept);
      } else {
        lines = std::move(found);
        smaller = true;
      }
    }
    if (piece == 1 && !smaller) break;
    if (piece == 1) piece = 2;
  }
}

std::string SequenceCampaign::describe(const Sequence& sequence, std::uint64_t number,
                                       const std::vector<std::string>& lines, std::uint64_t before,
                                       bool repeats) const {
  std::string text = fmt::format("---- {} number {} of seed {}, {} against {}\n", name_of(sequence.mode), number,
                                 options_.seed, comparer_->reference(), comparer_->subject());
  for (const std::string& line : lines) text += "  " + line + "\n";
  const cpu::CpuState& s = sequence.state;
  constexpr const char* kNames[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
  for (unsigned i = 0; i < 16; ++i)
    if (s.gpr[i]) text += fmt::format("  {}={:x}", kNames[i], s.gpr[i]);
  text += fmt::format("  rflags={:x} mxcsr={:x} fcw={:x} fsw={:x}{}\n", s.rflags, s.mxcsr, s.x87.control, s.x87.status,
                      sequence.writable_code ? " writable code" : "");
  constexpr const char* kSegments[6] = {"es", "cs", "ss", "ds", "fs", "gs"};
  for (unsigned i = 0; i < 6; ++i)
    text += fmt::format("  {}={:x}:{:x}:{:x}:{:x}", kSegments[i], s.seg[i].selector, s.seg[i].attributes,
                        s.seg[i].limit, s.seg[i].base);
  text += "\n";
  if (const std::optional<Program> program = assemble(sequence)) text += disassembly(sequence, *program);
  text += fmt::format("  sequence_compare --reference {} --subject {} --seed {} --modes ", comparer_->reference(),
                      comparer_->subject(), options_.seed);
  for (std::size_t i = 0; i < options_.modes.size(); ++i)
    text += fmt::format("{}{}", i ? "," : "", name_of(options_.modes[i]));
  if (options_.sequences.settle_flags) text += " --settle-flags";
  if (options_.all_flags) text += " --all-flags";
  if (!options_.sequences.self_modifying) text += " --no-self-modifying";
  text += fmt::format(" --first {} --count {}", number - before, before + 1);
  if (!repeats) return text + "\n  (not repeatable)\n";
  std::string keep;
  for (unsigned i = 0; i < sequence.kept.size(); ++i)
    if (sequence.kept[i]) keep += fmt::format("{}{}", keep.empty() ? "" : ",", i);
  return text + " --keep " + keep + "\n";
}

}  // namespace husk::differential
