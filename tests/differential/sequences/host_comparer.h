// husk: sequences on the host's own CPU and in the interpreter, up to their first fault
#pragma once

#include "../guest_cpu.h"
#include "../host_cpu.h"
#include "sequence_campaign.h"

namespace husk::differential {

/// Sequences must be made with SequenceOptions::for_host and settle_flags, in user64 and user32.
class HostComparer final : public SequenceComparer {
 public:
  /// An error: the host cannot be asked.
  static Result<std::unique_ptr<HostComparer>> create();
  std::vector<std::string> compare(const Sequence& sequence, SequenceReport* counts) override;
  void renew() override {}
  std::string_view reference() const override { return "block"; }
  std::string_view subject() const override { return "host"; }
  /// The host's kernel may lose x87 pointers when it switches contexts.
  unsigned confirmations() const override { return 3; }

 private:
  HostComparer() = default;
  std::unique_ptr<HostCpu> host_;
  std::unique_ptr<GuestCpu> guest_;
  std::unique_ptr<Outcome> host_outcome_ = std::make_unique<Outcome>(), guest_outcome_ = std::make_unique<Outcome>();
  std::string broken_;
};

/// What sequences for the host are made of: modes, and forms that this host and the model both have.
void choose_for_host(SequenceCampaignOptions& options);

}  // namespace husk::differential
