import java.io.*;
import java.security.*;
import java.util.*;
import java.util.concurrent.*;

/** A pool of four threads hashes the lines of the input, and makes garbage to be collected. */
public class Rounds {
    static String work(String line) throws Exception {
        byte[] value = line.getBytes("UTF-8");
        List<byte[]> kept = new ArrayList<>();
        for (int round = 0; round < 2000; round++) {
            value = MessageDigest.getInstance("SHA-256").digest(value);
            byte[] much = new byte[4096];
            much[round] = value[0];
            kept.add(much);
        }
        int sum = 0;
        for (int round = 0; round < kept.size(); round++) sum += kept.get(round)[round];
        return HexFormat.of().formatHex(value) + " " + sum;
    }

    public static void main(String[] words) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<String>> answers = new ArrayList<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String task = line;
            answers.add(pool.submit(() -> work(task)));
        }
        for (Future<String> answer : answers) System.out.println(answer.get());
        pool.shutdown();
    }
}
