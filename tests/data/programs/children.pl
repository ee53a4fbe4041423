# Parallel::ForkManager: a child for each line of the input, three at a time, that hands back a value.
use strict;
use warnings;
use Digest::SHA qw(sha256_hex);
use Parallel::ForkManager;

my (%said, $count);
my $children = Parallel::ForkManager->new(3);
$children->set_waitpid_blocking_sleep(0);
$children->run_on_finish(sub {
    my (undef, $status, $line, $signal, $core, $value) = @_;
    $said{$line} = "$status $signal $core $$value";
});
while (my $line = <STDIN>) {
    chomp $line;
    $count++;
    $children->start($line) and next;
    my $value = $line;
    $value = sha256_hex($value) for 1 .. 2000;
    $children->finish($count % 200, \$value);
}
$children->wait_all_children;
print "$_ $said{$_}\n" for sort { $a <=> $b } keys %said;
