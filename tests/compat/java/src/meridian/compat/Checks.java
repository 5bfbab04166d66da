package meridian.compat;

import java.util.List;
import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicInteger;

/** Runs checks and prints one line for each: `ok NAME` or `FAIL NAME reason`. */
final class Checks {
    /** A check; anything it throws is the reason it failed. */
    interface Check {
        void run(String topic) throws Exception;
    }

    static final long WAIT_MS = 90_000;
    /** How many replicas the topics have: those that the cluster gives to every topic. */
    static final short REPLICAS = Short.parseShort(System.getenv().getOrDefault("MERIDIAN_TEST_REPLICAS", "1"));
    final AtomicInteger failed = new AtomicInteger();
    private final String prefix;
    private final List<String> only = List.of(System.getenv().getOrDefault("MERIDIAN_TEST_ONLY", "").split(","));

    Checks(String prefix) {
        this.prefix = prefix;
    }

    void run(String name, Check check) {
        if (only.stream().noneMatch(name::contains)) {
            return;
        }
        long started = System.nanoTime();
        try {
            check.run(prefix + "-" + name);
            System.out.println("ok " + name);
        } catch (Exception | AssertionError error) {
            failed.incrementAndGet();
            error.printStackTrace();
            System.out.println("FAIL " + name + " " + cause(error).toString().replaceAll("\\s+", " "));
        }
        System.err.printf("%s took %.1f s%n", name, (System.nanoTime() - started) / 1e9);
    }

    static Throwable cause(Throwable error) {
        boolean wrapped = error instanceof ExecutionException || error instanceof CompletionException;
        return wrapped && error.getCause() != null ? error.getCause() : error;
    }

    static void equal(Object got, Object want, String what) {
        if (!Objects.equals(got, want)) {
            throw new AssertionError(what + " is " + shorten(got) + ", expected " + shorten(want));
        }
    }

    static void holds(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    private static String shorten(Object value) {
        String text = String.valueOf(value);
        return text.length() < 600 ? text : text.substring(0, 600) + "...";
    }

    static void eventually(String what, Callable<Boolean> probe) throws Exception {
        long deadline = System.currentTimeMillis() + WAIT_MS;
        while (!probe.call()) {
            if (System.currentTimeMillis() > deadline) {
                throw new AssertionError("after " + WAIT_MS + " ms still not: " + what);
            }
            Thread.sleep(20);
        }
    }

    static void fails(Class<? extends Exception> expected, String what, Callable<?> call) {
        Object result;
        try {
            result = call.call();
        } catch (Exception error) {
            if (!expected.isInstance(cause(error))) {
                throw new AssertionError(what + " must fail with " + expected.getSimpleName() + ", and failed with " + cause(error), error);
            }
            return;
        }
        throw new AssertionError(what + " must fail, and gave " + result);
    }
}
