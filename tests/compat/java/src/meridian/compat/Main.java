package meridian.compat;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * Apache Kafka's own client.
 *
 * <pre>
 * check BOOTSTRAP PREFIX RELAY   all checks, one line each
 * write BOOTSTRAP PREFIX         the records of Records into PREFIX-CODEC for every codec
 * dump BOOTSTRAP TOPIC...        prints what it reads
 * load BOOTSTRAP TOPIC PARTITIONS PRODUCER 1 RATE FILE, follow BOOTSTRAP TOPIC PARTITIONS FILE   see Load
 * </pre>
 */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 3) {
            System.err.println("usage: check|write|dump BOOTSTRAP ...");
            System.exit(2);
        }
        Kafka kafka = new Kafka(arguments[1]);
        List<String> rest = Arrays.asList(arguments).subList(2, arguments.length);
        switch (arguments[0]) {
            case "check" -> System.exit(check(kafka, rest.get(0), rest.get(1)) == 0 ? 0 : 1);
            case "write" -> {
                for (String codec : Records.CODECS) {
                    String topic = rest.get(0) + "-" + codec;
                    kafka.create(topic, 1, Map.of());
                    kafka.writeRecords(topic, codec);
                }
            }
            case "dump" -> {
                for (String topic : rest) {
                    Kafka.lines(kafka.read(topic, 0, 0, Records.COUNT)).forEach(System.out::println);
                }
            }
            case "load" -> {
                Checks.equal(rest.get(3), "1", "producers of this program");
                new Load(kafka).produce(
                        rest.get(0), number(rest.get(1)), number(rest.get(2)), number(rest.get(4)), Path.of(rest.get(5)));
            }
            case "follow" -> new Load(kafka).follow(rest.get(0), number(rest.get(1)), Path.of(rest.get(2)));
            default -> {
                System.err.println("unknown verb " + arguments[0]);
                System.exit(2);
            }
        }
        System.exit(0);
    }

    private static int number(String text) {
        return Integer.parseInt(text);
    }

    private static int check(Kafka kafka, String prefix, String relay) throws InterruptedException {
        Checks checks = new Checks(prefix);
        Groups groups = new Groups(kafka);
        // The groups wait for sessions to expire: side by side.
        List<Thread> waiting = new ArrayList<>();
        for (String assignor : Groups.ASSIGNORS.keySet()) {
            Thread thread = new Thread(() -> checks.run("rebalance-" + assignor, topic -> groups.rebalance(topic, assignor)));
            thread.start();
            waiting.add(thread);
        }
        new Data(kafka, relay).all(checks);
        groups.all(checks);
        new AdminChecks(kafka).all(checks);
        for (Thread thread : waiting) {
            thread.join();
        }
        return checks.failed.get();
    }
}
