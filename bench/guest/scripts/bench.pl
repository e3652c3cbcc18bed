# husk: the guest benchmark kit: a Perl program: hashes, regular expressions, sorting
use strict;
use warnings;

my $scale = shift @ARGV;
my %counts;
my $text = join ' ', map { 'w' . ($_ * 7919 % 1009) . 'x' . ($_ % 13) } 1 .. 300 * $scale;
$counts{$1}++ while $text =~ /\b(w\d+)x/g;
my @top = (sort { $counts{$b} <=> $counts{$a} || $a cmp $b } keys %counts)[0 .. 4];
(my $changed = $text) =~ s/(\d)(\d)/$2$1/g;
my $sum = 0;
for my $i (1 .. 1500 * $scale) { $sum = ($sum * 31 + $i) % 1000003; }
my @numbers = sort { $a <=> $b } map { $_ * 7919 % 65537 } 1 .. 200 * $scale;
my $checked = unpack '%32C*', $changed;
sub fibonacci { my $n = shift; return $n < 2 ? $n : fibonacci($n - 1) + fibonacci($n - 2); }
my $calls = 0;
$calls += fibonacci(12) for 1 .. $scale;
print "@top $sum $numbers[10] $numbers[-1] $checked $calls\n";
