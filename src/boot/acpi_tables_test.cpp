// husk: ACPI tables, judged by ACPICA's own compiler
#include "boot/acpi_tables.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/bits.h"
#include "boot/aml.h"

namespace husk::boot {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

AcpiConfig full_config(unsigned cpus) {
  AcpiConfig config;
  config.apic_ids.resize(cpus);
  std::iota(config.apic_ids.begin(), config.apic_ids.end(), 0u);
  AcpiPci pci;
  pci.ecam_base = 0xB000'0000;
  pci.last_bus = 255;
  pci.memory32 = {0xC000'0000, 0x3C00'0000};
  pci.memory64 = {0x80'0000'0000, 0x80'0000'0000};
  pci.interrupt_of = [](unsigned device, unsigned pin) { return 16 + (device + pin) % 8; };
  config.pci = pci;
  config.hpet_address = 0xFED0'0000;
  config.serial_ports = {{0x3F8, 4}, {0x2F8, 3}};
  config.fixed.gpe0 = 0x620;
  config.fixed.gpe0_length = 16;
  return config;
}

AcpiConfig bare_config() {
  AcpiConfig config;
  config.pit = config.pic = config.rtc = config.keyboard = config.mouse = false;
  config.fixed.reset_port = 0;
  return config;
}

Bytes table(const AcpiBlob& blob, const std::string& signature) {
  for (const AcpiTable& t : blob.tables)
    if (t.signature == signature)
      return {blob.bytes.begin() + static_cast<std::ptrdiff_t>(t.offset),
              blob.bytes.begin() + static_cast<std::ptrdiff_t>(t.offset + t.length)};
  return {};
}

struct Output {
  int status;
  std::string text;
};
Output run(const std::string& command) {
  Output output{-1, {}};
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return output;
  char buffer[4096];
  while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) output.text.append(buffer, got);
  output.status = ::pclose(pipe);
  return output;
}

class TempDirectory {
 public:
  TempDirectory() {
    std::string pattern = (fs::temp_directory_path() / "husk-acpi-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDirectory() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

Bytes read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Disassembles and recompiles every table; the result must have the same bytes but for the compiler's own name.
void expect_iasl_agrees(const AcpiBlob& blob) {
  if (run("iasl -v").status != 0) GTEST_SKIP() << "iasl is not installed (package acpica-tools)";
  const TempDirectory directory;
  for (const AcpiTable& t : blob.tables) {
    if (t.signature == "RSD PTR ") continue;  // no ACPI table by itself; iasl does not read it
    SCOPED_TRACE(t.signature);
    const Bytes original = table(blob, t.signature);
    const fs::path dat = directory / (t.signature + ".dat"), dsl = directory / (t.signature + ".dsl"),
                   aml = directory / (t.signature + ".aml");
    std::ofstream(dat, std::ios::binary)
        .write(reinterpret_cast<const char*>(original.data()), static_cast<std::streamsize>(original.size()));
    const Output disassembly = run("iasl -d " + dat.string());
    ASSERT_EQ(disassembly.status, 0) << disassembly.text;
    for (const char* bad : {"Error", "Warning", "Incorrect", "Invalid", "Unknown"})
      EXPECT_EQ(disassembly.text.find(bad), std::string::npos) << disassembly.text;
    const Output compilation = run("iasl -ve " + dsl.string());
    EXPECT_EQ(compilation.status, 0) << compilation.text;
    const Output verdict = run("iasl " + dsl.string());
    EXPECT_NE(verdict.text.find("0 Errors, 0 Warnings"), std::string::npos) << verdict.text;
    Bytes again = read_file(aml);
    ASSERT_EQ(again.size(), original.size());
    if (t.signature != "FACS") {  // checksum, compiler id and revision
      again[9] = original[9];
      std::copy_n(original.begin() + 28, 8, again.begin() + 28);
    }
    EXPECT_EQ(again, original);
  }
}

TEST(AcpiTables, IaslRoundTripsAFullBoard) { expect_iasl_agrees(build_acpi_tables(full_config(4), 0xE0000)); }
TEST(AcpiTables, IaslRoundTripsABareBoard) { expect_iasl_agrees(build_acpi_tables(bare_config(), 0xE0000)); }
TEST(AcpiTables, IaslRoundTripsMoreProcessorsThanXapicIdsHold) {
  expect_iasl_agrees(build_acpi_tables(full_config(300), 0x7FF0'0000));
}

TEST(AcpiTables, ChecksumsAreZero) {
  const AcpiBlob blob = build_acpi_tables(full_config(2), 0xE0000);
  for (const AcpiTable& t : blob.tables) {
    if (t.signature == "FACS") continue;
    const Bytes bytes = table(blob, t.signature);
    EXPECT_EQ(static_cast<std::uint8_t>(std::accumulate(bytes.begin(), bytes.end(), 0)), 0) << t.signature;
  }
  EXPECT_EQ(static_cast<std::uint8_t>(std::accumulate(blob.bytes.begin(), blob.bytes.begin() + 20, 0)), 0);
}

TEST(AcpiTables, PointersLeadFromRsdpToEveryTable) {
  constexpr std::uint64_t kBase = 0x7FF0'0000;
  const AcpiBlob blob = build_acpi_tables(full_config(1), kBase);
  const auto signature_at = [&](std::uint64_t address) {
    return std::string(reinterpret_cast<const char*>(blob.bytes.data() + (address - kBase)), 4);
  };
  ASSERT_EQ(std::string(blob.bytes.begin(), blob.bytes.begin() + 8), "RSD PTR ");
  const std::uint8_t* const rsdp = blob.bytes.data();
  EXPECT_EQ(rsdp[15], 2) << "revision of ACPI 2.0 and later";
  const std::uint64_t rsdt_at = load_le<std::uint32_t>(rsdp + 16), xsdt_at = load_le<std::uint64_t>(rsdp + 24);
  ASSERT_EQ(signature_at(rsdt_at), "RSDT");
  ASSERT_EQ(signature_at(xsdt_at), "XSDT");
  const Bytes xsdt = table(blob, "XSDT"), rsdt = table(blob, "RSDT");
  std::vector<std::string> found;
  for (std::size_t at = 36; at < xsdt.size(); at += 8) found.push_back(signature_at(load_le<std::uint64_t>(&xsdt[at])));
  EXPECT_EQ(found, (std::vector<std::string>{"FACP", "APIC", "MCFG", "HPET"}));
  EXPECT_EQ((rsdt.size() - 36) / 4, found.size());
  const Bytes fadt = table(blob, "FACP");
  EXPECT_EQ(signature_at(load_le<std::uint32_t>(&fadt[36])), "FACS");
  EXPECT_EQ(load_le<std::uint32_t>(&fadt[36]) % 64, 0u) << "ACPI 6.3, 5.2.10";
  EXPECT_EQ(signature_at(load_le<std::uint64_t>(&fadt[140])), "DSDT");
}

TEST(AcpiTables, MadtListsX2ApicEntriesWhereIdsNeedThem) {
  AcpiConfig config = full_config(3);
  config.apic_ids = {0, 254, 255};
  const Bytes madt = table(build_acpi_tables(config, 0xE0000), "APIC");
  std::vector<int> types;
  for (std::size_t at = 44; at < madt.size(); at += madt[at + 1]) types.push_back(madt[at]);
  EXPECT_EQ(types, (std::vector<int>{0, 0, 9, 1, 2, 2, 4, 10}));
}

// Encodings printed in ACPI 6.3: 19.3.4 gives EISAID("PNP0C08") = 0x080CD041.
TEST(Aml, EisaIdAsTheSpecificationPrintsIt) {
  EXPECT_EQ(aml::eisa_id("PNP0C08").bytes, (Bytes{0x0C, 0x41, 0xD0, 0x0C, 0x08}));
}

// ACPI 6.3, 19.6.142: ToUUID("aabbccdd-eeff-gghh-iijj-kkllmmnnoopp") stores dd cc bb aa ff ee hh gg ii jj kk ...
TEST(Aml, UuidIsMixedEndian) {
  EXPECT_EQ(aml::uuid("00112233-4455-6677-8899-AABBCCDDEEFF").bytes,
            (Bytes{0x11, 0x13, 0x0A, 0x10, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44,
                   0x77, 0x66, 0x88, 0x99, 0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF}));
}

TEST(Aml, PackageLengthCountsItself) {
  EXPECT_EQ(aml::scope("A", {Bytes(58, 0xA3)}).bytes[1], 63) << "the most that one byte holds";
  const Bytes two = aml::scope("A", {Bytes(59, 0xA3)}).bytes;
  EXPECT_EQ(two[1], 0x40 | (65 & 0xF));
  EXPECT_EQ(two[2], 65 >> 4);
  const Bytes three = aml::scope("A", {Bytes(5000, 0xA3)}).bytes;
  EXPECT_EQ(three[1] >> 6, 2);
  EXPECT_EQ((three[1] & 0xF) | three[2] << 4 | three[3] << 12, 5007);
}

TEST(Aml, PathsOfEveryLength) {
  EXPECT_EQ(aml::path("A").bytes, (Bytes{'A', '_', '_', '_'}));
  EXPECT_EQ(aml::path("\\_SB.PCI0").bytes, (Bytes{'\\', 0x2E, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
  EXPECT_EQ(aml::path("^A.B.C").bytes[1], 0x2F);
  EXPECT_EQ(aml::path("^A.B.C").bytes[2], 3);
}

}  // namespace
}  // namespace husk::boot
